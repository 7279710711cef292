"""Two systems of adapters without a clock: SUN's workers, and one server with adapters in both phases. Pure.

Both use the cost model of emulated workers (`sim/cost_model.py`). No KV runs out, and every adapter has a slot.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler, Ended, Event, Token
from sun_sglang.sim.prefill_scheduler import PrefillScheduler

_KV_TOKENS = 10**9


class SimulatedSystem(Protocol):
    """A system in virtual time."""

    @property
    def due(self) -> float | None:
        """Return the time of the next call of `step`, in seconds; None if nothing runs."""

    def submit(self, rid: str, prompt: int, limit: int, adapter: str) -> None:
        """Queue a request: its id, tokens of its prompt and of its answer, and its adapter."""

    def step(self, now: float) -> list[Event]:
        """Do the work that is due, and return the tokens and the ends of requests in order."""


class SunWorkers:
    """One prefill worker, which applies the adapters, and one decode worker, which has none.

    Args:
        costs: of both workers.
        slots: slots of the prefill worker.
    """

    def __init__(self, costs: CostModel, slots: int) -> None:
        self._costs = costs
        self._prefill = PrefillScheduler(costs, kv_tokens=_KV_TOKENS, slots=AdapterSlots(slots))
        self._decode = DecodeScheduler(costs, kv_tokens=_KV_TOKENS, reserved=0)
        self._transfers: list[tuple[float, str]] = []
        self._ready: set[str] = set()

    @property
    def due(self) -> float | None:
        """Return the time of the next event."""
        times = [self._prefill.due, self._decode.due, self._transfers[0][0] if self._transfers else None]
        return min((time for time in times if time is not None), default=None)

    def submit(self, rid: str, prompt: int, limit: int, adapter: str) -> None:
        """Queue a request on both workers."""
        self._prefill.submit(rid, prompt, adapter=adapter)
        self._decode.submit(rid, prompt, limit)

    def step(self, now: float) -> list[Event]:
        """Do the work that is due."""
        for rid in [prompt.rid for prompt in self._prefill.step(now)]:
            self._prefill.release(rid)
            self._sent(rid, now)
        while self._transfers and self._transfers[0][0] <= now:
            self._decode.arrive(heappop(self._transfers)[1])
        events = self._decode.step(now)
        for event in events:
            if isinstance(event, Admitted):
                self._sent(event.rid, now)
        return [event for event in events if not isinstance(event, Admitted)]

    def _sent(self, rid: str, now: float) -> None:
        """Begin the transfer of a prompt that was computed and for which the decode worker has reserved KV."""
        if rid in self._ready:
            self._ready.remove(rid)
            heappush(self._transfers, (now + self._costs.transfer, rid))
        else:
            self._ready.add(rid)


@dataclass(slots=True)
class _Request:
    rid: str
    prompt: int
    limit: int
    adapter: str
    made: int = 0


class AdapterServer:
    """One server that applies the adapters to prompts and answers.

    It runs all waiting prompts before the next decode step, as SGLang does without disaggregation
    (`managers/scheduler.py`: `get_next_batch_to_run`).

    Args:
        costs: of the server.
    """

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._queue: deque[_Request] = deque()
        self._prompts: list[_Request] = []
        self._running: list[_Request] = []
        self._due: float | None = None

    @property
    def due(self) -> float | None:
        """Return the end of the running batch."""
        return self._due

    def submit(self, rid: str, prompt: int, limit: int, adapter: str) -> None:
        """Queue a request."""
        self._queue.append(_Request(rid, prompt, limit, adapter))

    def step(self, now: float) -> list[Event]:
        """Do the work that is due."""
        events: list[Event] = []
        if self._due is not None and now >= self._due:
            self._due = None
            done, self._prompts = self._prompts or self._running, []
            self._running += [request for request in done if request not in self._running]
            for request in done:
                request.made += 1
                events.append(Token(request.rid, request.made))
                if request.made == request.limit:
                    events.append(Ended(request.rid, "length"))
            self._running = [request for request in self._running if request.made < request.limit]
        if self._due is None:
            self._start(now)
        return events

    def _start(self, now: float) -> None:
        if self._queue:
            self._prompts, self._queue = list(self._queue), deque()
            tokens, adapters = [p.prompt for p in self._prompts], [p.adapter for p in self._prompts]
            self._due = now + self._costs.prefill_seconds(tokens, adapters)
        elif self._running:
            context = sum(request.prompt + request.made for request in self._running)
            adapters = [request.adapter for request in self._running]
            self._due = now + self._costs.decode_seconds(len(self._running), context, adapters)
