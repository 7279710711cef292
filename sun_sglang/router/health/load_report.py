"""Read how much work a worker reports. I/O: `GET /v1/loads`."""

from __future__ import annotations

from typing import NamedTuple

import aiohttp

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.protocol.worker_replies import count_at, parse_json
from sun_sglang.router.transport.http_session import read_at_most

# SGLang reports some hundred bytes a rank.
MAX_LOADS_BYTES = 1 << 20


class LoadReport(NamedTuple):
    """The work of a worker, all of its ranks together.

    Attributes:
        requests: requests that run or wait.
        tokens: tokens that they hold or wait to compute.
        stamp: a value that changes with each batch; None if the worker reports none.
    """

    requests: int
    tokens: int
    stamp: object = None


async def fetch_load(session: aiohttp.ClientSession, spec: FleetWorker, seconds: float) -> LoadReport | None:
    """Return the load that a worker reports; None if it does not answer.

    Args:
        session: sends the request.
        spec: the worker.
        seconds: limit for the reply.
    """
    timeout, url = aiohttp.ClientTimeout(total=seconds), spec.url + "/v1/loads?include=core"
    try:
        async with session.get(url, headers=spec.headers, timeout=timeout, allow_redirects=False) as response:
            return parse_load(await read_at_most(response, MAX_LOADS_BYTES))
    except (aiohttp.ClientError, OSError):
        return None


def parse_load(body: bytes) -> LoadReport:
    """Return the load in a reply of `/v1/loads`; no load if the reply cannot be read.

    Fields are SGLang's (srt/managers/scheduler_components/load_publisher.py).
    """
    reply = parse_json(body)
    ranks = reply.get("loads") if isinstance(reply, dict) else None
    if not isinstance(ranks, list):
        return LoadReport(0, 0)
    ranks = [rank for rank in ranks if isinstance(rank, dict)]
    requests = sum(count_at(r, "num_running_reqs") + count_at(r, "num_waiting_reqs") for r in ranks)
    tokens = sum(count_at(r, "num_total_tokens") for r in ranks)
    return LoadReport(requests, tokens, [r.get("timestamp") for r in ranks])
