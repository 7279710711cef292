"""The batching of a decode worker: KV is reserved in order of arrival, and a step adds a token to each request. Pure.

After SGLang's decode worker (disaggregation/decode.py, managers/schedule_batch.py): preallocation is first in, first
out, and stops at the first request that does not fit; a full cache retracts the request with the fewest tokens; a
retracted request resumes before any admission. A request whose LoRA adapter finds no slot beside those in use is passed
over. A state machine without a clock: `step(now)` does the work that is due, and `due` is the time of the next call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel

# SGLang's --num-reserved-decode-tokens: kept free for each active request when another one is admitted
RESERVED_TOKENS = 512


class Admitted(NamedTuple):
    """KV for the prompt is reserved, and its transfer may begin."""

    rid: str


class Token(NamedTuple):
    """A request has one more token; `made` is the number of its tokens."""

    rid: str
    made: int


class Ended(NamedTuple):
    """A request has ended: it has all its tokens (`length`), or it does not fit even alone (`memory`)."""

    rid: str
    why: Literal["length", "memory"]


class StepTotals(NamedTuple):
    """The steps that have ended, as sums over them.

    Attributes:
        steps: their number.
        requests: requests in the batch.
        seconds: duration.
        requests_squared: square of the requests in the batch.
        requests_seconds: requests in the batch times duration.
    """

    steps: int = 0
    requests: int = 0
    seconds: float = 0.0
    requests_squared: int = 0
    requests_seconds: float = 0.0

    def plus(self, requests: int, seconds: float) -> StepTotals:
        """Return the sums after one more step."""
        return StepTotals(
            self.steps + 1,
            self.requests + requests,
            self.seconds + seconds,
            self.requests_squared + requests * requests,
            self.requests_seconds + requests * seconds,
        )


Event: TypeAlias = Admitted | Token | Ended


@dataclass(slots=True, eq=False)
class _Request:
    rid: str
    prompt: int
    limit: int
    makes_first: bool = False
    adapter: str | None = None
    made: int = 0
    retractions: int = 0

    @property
    def context(self) -> int:
        return self.prompt + self.made

    @property
    def received(self) -> int:
        """Tokens of the prompt whose KV a prefill worker sends."""
        return self.prompt - self.makes_first


class DecodeScheduler:
    """The queues and the batch of one decode worker.

    Args:
        costs: the seconds that a step takes.
        kv_tokens: tokens of KV that fit.
        reserved: tokens of KV kept free for each active request when another one is admitted.
        slots: the slots of LoRA adapters; None on a worker without LoRA.
        is_held: returns whether a request (id, number of its tokens) gets no token for now; it keeps its KV.

    Attributes:
        costs: may be replaced; the next step uses the new costs.
        due: end of the running step; None if none runs.
        used: tokens of KV held.
        totals: the steps that have ended.
    """

    def __init__(
        self,
        costs: CostModel,
        *,
        kv_tokens: int,
        reserved: int = RESERVED_TOKENS,
        slots: AdapterSlots | None = None,
        is_held: Callable[[str, int], bool] = lambda rid, made: False,
    ) -> None:
        self.costs = costs
        self.kv_tokens = kv_tokens
        self.due: float | None = None
        self.used = 0
        self.totals = StepTotals()
        self._began = 0.0
        self._reserved = reserved
        self._slots = slots
        self._is_held = is_held
        self._known: dict[str, _Request] = {}
        self._held: dict[str, int] = {}
        self._waiting: deque[_Request] = deque()
        self._arrived: list[_Request] = []
        self._running: dict[str, _Request] = {}
        self._batch: list[_Request] = []
        self._retracted: deque[_Request] = deque()

    @property
    def waiting(self) -> int:
        """Number of requests that never had KV."""
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of the waiting requests."""
        return sum(r.prompt for r in self._waiting)

    @property
    def transferring(self) -> int:
        """Number of requests with reserved KV whose prompt KV has not arrived."""
        return len(self._held) - len(self._running)

    @property
    def running(self) -> int:
        """Number of requests that get a token each step."""
        return len(self._running)

    @property
    def retracted(self) -> int:
        """Number of requests that lost their KV and wait to resume."""
        return len(self._retracted)

    def retractions(self, rid: str) -> int:
        """Return how often a request has lost its KV."""
        return self._known[rid].retractions

    def submit(
        self, rid: str, prompt: int, limit: int, *, makes_first: bool = False, adapter: str | None = None
    ) -> None:
        """Queue a request.

        Args:
            rid: id of the request.
            prompt: tokens of the prompt. A prompt of `kv_tokens` or more never fits, and the caller must refuse it.
            limit: tokens to generate.
            makes_first: this worker runs the last prompt token in its first step, which makes the first token, and
                receives the KV of the others. Otherwise the first token arrives with the KV of the whole prompt.
            adapter: the LoRA adapter that this worker applies to its tokens; None for none.
        """
        assert makes_first < prompt < self.kv_tokens
        assert limit >= 0
        assert rid not in self._known
        assert adapter is None or self._slots is not None
        self._known[rid] = request = _Request(rid, prompt, limit, makes_first, adapter)
        self._waiting.append(request)

    def arrive(self, rid: str) -> None:
        """Record that the KV of a prompt has arrived, with the first token unless this worker makes it."""
        assert rid in self._held
        self._arrived.append(self._known[rid])

    def drop(self, rid: str) -> None:
        """End a request early, in any state; an unknown id has no effect."""
        if rid in self._known:
            self._forget(self._known[rid])

    def step(self, now: float) -> list[Event]:
        """End a step that is due, admit requests, start the next step, and return the events in order.

        Call it after every change, and at `due`.
        """
        events: list[Event] = []
        if self.due is not None and now >= self.due:
            self.totals = self.totals.plus(len(self._batch), self.due - self._began)
            self.due = None
            for request in self._batch:
                if request.rid in self._running:
                    self._held[request.rid] += 1
                    self.used += 1
                    self._emit(request, events)
            self._batch = []
        arrived, self._arrived = self._arrived, []
        for request in arrived:
            if request.rid not in self._known:
                continue
            if self._is_held(request.rid, 0):
                self._arrived.append(request)
            else:
                self._running[request.rid] = request
                if not request.makes_first or not request.limit:
                    self._emit(request, events)
        if self.due is None:
            self._select(events)
            self._admit(events)
            self._start(now)
        else:
            self._admit(events)
        assert 0 <= self.used <= self.kv_tokens
        return events

    def _emit(self, request: _Request, events: list[Event]) -> None:
        """Add a token to a request, and end the request at its limit."""
        if request.made < request.limit:
            request.made += 1
            events.append(Token(request.rid, request.made))
        if request.made >= request.limit:
            self._forget(request)
            events.append(Ended(request.rid, "length"))

    def _select(self, events: list[Event]) -> None:
        """Select the requests of the next step. If the last one does not fit and ends, retracted ones resume."""
        while True:
            self._resume()
            self._make_room(events)
            if self._held or not self._retracted:
                return

    def _resume(self) -> None:
        while self._retracted and self._fits(self._retracted[0].context):
            request = self._retracted.popleft()
            self._hold(request, request.context - 1)
            self._running[request.rid] = request

    def _make_room(self, events: list[Event]) -> None:
        """Retract requests until the KV of the next step's tokens fits."""
        # `used` lacks the KV that a running step will write, so requests are selected between steps only
        while self._running and self.used + len(self._running) > self.kv_tokens:
            if len(self._running) == 1 and len(self._held) == 1:
                (request,) = self._running.values()
                self._forget(request)
                events.append(Ended(request.rid, "memory"))
                return
            request = min(self._running.values(), key=lambda r: (r.made, -r.prompt))
            self._release(request)
            request.retractions += 1
            self._retracted.append(request)

    def _admit(self, events: list[Event]) -> None:
        passed_over = []
        while self._waiting and not self._retracted and self._fits(self._waiting[0].received):
            request = self._waiting.popleft()
            if not self._finds_slot(request):
                passed_over.append(request)
                continue
            self._hold(request, request.received)
            events.append(Admitted(request.rid))
        self._waiting.extendleft(reversed(passed_over))

    def _finds_slot(self, request: _Request) -> bool:
        if self._slots is None:
            return True
        return self._slots.fit({request.adapter, *(self._known[rid].adapter for rid in self._held)})

    def _fits(self, tokens: int) -> bool:
        # the running step writes one token for each request of its batch
        free = self.kv_tokens - self.used - len(self._batch)
        return not self._held or tokens + self._reserved * len(self._held) <= free

    def _start(self, now: float) -> None:
        self._batch = [r for r in self._running.values() if not self._is_held(r.rid, r.made)]
        if self._batch:
            adapters = [r.adapter for r in self._batch] if self._slots is not None else []
            copies = self._slots.use(set(adapters), self.costs.lora_slot) if self._slots is not None else 0.0
            context = sum(r.context for r in self._batch)
            self._began = now
            self.due = now + copies + self.costs.decode_seconds(len(self._batch), context, adapters)

    def _hold(self, request: _Request, tokens: int) -> None:
        self._held[request.rid] = tokens
        self.used += tokens

    def _release(self, request: _Request) -> None:
        self.used -= self._held.pop(request.rid, 0)
        self._running.pop(request.rid, None)

    def _forget(self, request: _Request) -> None:
        self._release(request)
        del self._known[request.rid]
        for queue in (self._waiting, self._retracted):
            if request in queue:
                queue.remove(request)
