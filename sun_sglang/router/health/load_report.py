"""Read how much work a worker reports. I/O: `GET /v1/loads`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.protocol.worker_replies import count_at, parse_json
from sun_sglang.router.transport.http_session import read_at_most
from sun_sglang.router.workers.decode_steps import DecodeTotals

# SGLang reports some hundred bytes a rank.
MAX_LOADS_BYTES = 1 << 20
_MOMENTS = 6


class LoadReport(NamedTuple):
    """The work of a worker, all of its ranks together.

    Attributes:
        requests: requests that run or wait.
        tokens: tokens that they hold or wait to compute.
        stamp: a value that changes with each batch; None if the worker reports none.
        decode: its decode steps since it started; None if it reports none.
    """

    requests: int
    tokens: int
    stamp: object = None
    decode: DecodeTotals | None = None


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
    return LoadReport(requests, tokens, [r.get("timestamp") for r in ranks], _decode_totals(ranks))


def _decode_totals(ranks: Sequence[Mapping[str, Any]]) -> DecodeTotals | None:
    """Return the decode steps of all ranks; None where none was measured."""
    moments = [m for rank in ranks if (m := _moments(rank.get("decode_moments"))) is not None]
    if not moments:
        return None
    return DecodeTotals(
        steps=sum(m[0] for m in moments),
        requests=sum(m[1] for m in moments),
        seconds=sum(m[2] for m in moments) / 1e6,
        used=sum(count_at(rank, "num_used_tokens") for rank in ranks) / len(ranks),
        kv_tokens=sum(count_at(rank, "max_total_num_tokens") for rank in ranks),
    )


def _moments(value: object) -> list[float] | None:
    """Return the sums that SGLang's `_accumulate_decode_moment` makes (srt/managers/scheduler.py), if these are any.

    They are the number of steps, then the sums over steps of batch size, duration in microseconds, squared batch size,
    batch size times duration, and generated tokens.
    """
    if not isinstance(value, list) or len(value) != _MOMENTS:
        return None
    numbers = [float(v) for v in value if isinstance(v, (int, float)) and 0 <= v < math.inf]
    return numbers if len(numbers) == _MOMENTS and numbers[0] else None
