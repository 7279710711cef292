"""The requests of one cell, sent to the router in a closed loop."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from sun_sglang.bench.four_bit.systems import Cell
from sun_sglang.bench.load.client.clock import RunClock
from sun_sglang.bench.load.client.endpoint import Endpoint, client_session, prepare
from sun_sglang.bench.load.client.sender import Sender
from sun_sglang.bench.load.drive.closed_loop import closed_loop
from sun_sglang.bench.load.drive.units import request_units
from sun_sglang.bench.load.metrics.latency import inter_token_latency, time_to_first_token
from sun_sglang.bench.load.workload.planned import PlannedRequest
from sun_sglang.errors import WorkerError

_TIMEOUT_S = 900.0
# ids of bytes: no special token ends an answer, and the tokenizer knows them
_IDS = range(5, 261)


class Lengths(NamedTuple):
    """Tokens of each request, and the number of requests of each user."""

    prompt: int
    answer: int
    per_user: int


class Measured(NamedTuple):
    """The values of one cell.

    Attributes:
        ttft_ms: median time to the first token, of all requests.
        tpot_ms: mean time for each token after the first, of all requests.
        throughput: output tokens a second.
    """

    ttft_ms: float
    tpot_ms: float
    throughput: float


async def measure(url: str, cell: Cell, lengths: Lengths, seed: int) -> Measured:
    """Send the requests of a cell, and return its values when all have been answered.

    Raises:
        WorkerError: a request failed; names the system and the reason.
    """
    clock = RunClock()
    async with client_session(timeout=_TIMEOUT_S) as session:
        sender = Sender(session, lambda _task: Endpoint(url), clock)
        units = request_units(_requests(cell, lengths, seed), prepare, sender.send)
        await closed_loop(units, clock, concurrency=cell.concurrency)
        seconds = clock.now()
    if failure := next((record.failure for record in sender.records if record.failure), None):
        raise WorkerError(f"{cell.system} at {cell.concurrency} users: {failure.message}")
    first = sorted(t for record in sender.records if (t := time_to_first_token(record)) is not None)
    between = [t for record in sender.records if (t := inter_token_latency(record)) is not None]
    assert len(first) == len(between) == cell.concurrency * lengths.per_user
    tokens = sum(record.output_tokens for record in sender.records)
    return Measured(first[len(first) // 2], sum(between) / len(between), tokens / seconds)


def _requests(cell: Cell, lengths: Lengths, seed: int) -> Iterator[PlannedRequest]:
    """Yield requests with prompts that no other cell has: a worker that two systems share caches prompts."""
    rng = random.Random(f"{seed} {cell}")
    for index in range(cell.concurrency * lengths.per_user):
        prompt = tuple(rng.choices(_IDS, k=lengths.prompt))
        yield PlannedRequest(index, cell.system, None, prompt, lengths.answer)
