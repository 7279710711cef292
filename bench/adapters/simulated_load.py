"""A closed loop of clients on a simulated system: the same quantities that `sun bench` measures. Pure."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from sun_sglang.bench.adapters.simulated_systems import SimulatedSystem
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.sim.decode_scheduler import Ended, Token


@dataclass(frozen=True)
class Load:
    """A closed loop.

    Attributes:
        tasks: number of tasks, each an adapter.
        zipf: exponent of their popularity.
        clients: requests in flight.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
    """

    tasks: int
    zipf: float
    clients: int
    prompt: int
    answer: int


@dataclass(frozen=True)
class Outcome:
    """What a system did.

    Attributes:
        tokens_per_s: output tokens a second.
        gap_ms: mean time between two tokens of an answer.
        ttft_ms: median time to the first token.
    """

    tokens_per_s: float
    gap_ms: float
    ttft_ms: float


def simulate(system: SimulatedSystem, load: Load, *, requests: int = 300, seed: int = 0) -> Outcome:
    """Send requests until enough have ended, and return the quantities of those after the first tenth.

    Args:
        system: a new system.
        load: the load.
        requests: requests that end.
        seed: of the tasks of requests.
    """
    draw, popularity = random.Random(seed), Popularity(load.tasks, load.zipf)
    now, sent, ended = 0.0, 0, 0
    begun: dict[str, float] = {}
    last: dict[str, float] = {}
    first_tokens: list[float] = []
    gaps: list[float] = []
    counted_since, tokens = None, 0

    def send() -> None:
        nonlocal sent
        rid, sent = str(sent), sent + 1
        begun[rid] = now
        system.submit(rid, load.prompt, load.answer, str(popularity.task(draw.random(), 0.0)))

    for _ in range(load.clients):
        send()
    while ended < requests:
        # a request that was just sent may start at once
        events = system.step(now)
        if not events:
            assert system.due is not None, "requests are in flight"
            now = system.due
            events = system.step(now)
        for event in events:
            if isinstance(event, Token):
                if counted_since is not None:
                    tokens += 1
                    if event.made == 1:
                        first_tokens.append(now - begun[event.rid])
                    else:
                        gaps.append(now - last[event.rid])
                last[event.rid] = now
            elif isinstance(event, Ended):
                ended += 1
                if counted_since is None and ended >= requests // 10:
                    counted_since = now
                send()
    assert counted_since is not None
    return Outcome(
        tokens / (now - counted_since), 1000 * statistics.fmean(gaps), 1000 * statistics.median(first_tokens)
    )
