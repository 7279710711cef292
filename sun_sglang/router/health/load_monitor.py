"""How much work workers say they have: what this router sent, and what others did. I/O: `/v1/loads`."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp

from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.protocol.worker_replies import count_at, parse_json
from sun_sglang.router.transport.http_session import read_at_most
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

# SGLang reports some hundred bytes a rank.
MAX_LOADS_BYTES = 1 << 20


class Load(NamedTuple):
    """What a worker has: requests, and the tokens that they hold or wait to compute.

    `stamp` changes with each batch; None where the worker gives none.
    """

    requests: int
    tokens: int
    stamp: object = None


class LoadMonitor:
    """Notes on each worker what it has from others: another router, a client that goes past the router.

    A worker cannot say who sent what: what it reports beyond what this router knows to be on it counts as from others.
    The router counts whole answers where clients limit them, so others are rather counted too low; where clients set no
    limit the router counts prompts alone, and the report makes up for the answers.
    """

    def __init__(self, session: aiohttp.ClientSession, registry: Registry, clock: Clock, deadlines: Deadlines) -> None:
        self._session = session
        self._clock = clock
        self._deadlines = deadlines
        self._registry = registry
        self._interval = registry.fleet.router.load_interval
        self._stamps: dict[str, object] = {}

    async def run(self) -> None:
        """Ask all workers of the rotation again and again, until cancelled."""
        while self._interval:
            await asyncio.sleep(self._interval)
            present = [w for w in self._registry.workers.values() if w.card is not None]
            await asyncio.gather(*(self._look(worker) for worker in present))

    async def _look(self, worker: Worker) -> None:
        before = worker.load.router_total
        # whether it lives is its probe's to judge; what is not known is not counted
        load = await ask_load(self._session, worker, self._deadlines.load_report) or Load(0, 0)
        if load.requests and load.stamp != self._stamps.get(worker.name):
            # it runs batches: a worker that is full is slow, and does not hang
            worker.note_progress(self._clock.now())
        self._stamps[worker.name] = load.stamp
        # what came or went meanwhile may or may not be in the report, so the larger of both counts
        after = worker.load.router_total
        own_requests, own_tokens = max(before[0], after[0]), max(before[1], after[1])
        worker.load.set_external(max(0, load.requests - own_requests), max(0, load.tokens - own_tokens))


async def ask_load(session: aiohttp.ClientSession, worker: Worker, seconds: float) -> Load | None:
    """What a worker says it has; None where it does not say within `seconds`."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        url, headers = worker.spec.url + "/v1/loads?include=core", worker.spec.headers
        async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            return read_load(await read_at_most(response, MAX_LOADS_BYTES))
    except (aiohttp.ClientError, OSError):
        return None


def read_load(body: bytes) -> Load:
    """The load in a reply of `/v1/loads`, all ranks together; none where it cannot be read.

    Fields are SGLang's (srt/managers/scheduler_components/load_publisher.py).
    """
    reply = parse_json(body)
    ranks = reply.get("loads") if isinstance(reply, dict) else None
    if not isinstance(ranks, list):
        return Load(0, 0)
    ranks = [rank for rank in ranks if isinstance(rank, dict)]
    requests = sum(count_at(r, "num_running_reqs") + count_at(r, "num_waiting_reqs") for r in ranks)
    return Load(requests, sum(count_at(r, "num_total_tokens") for r in ranks), [r.get("timestamp") for r in ranks])
