"""How a decode worker batches: KV is reserved in order of arrival, every step gives each running request a token. Pure.

After SGLang's decode worker (disaggregation/decode.py, managers/schedule_batch.py): preallocation is first in, first
out and stops at the first misfit; a full cache retracts the request with the fewest tokens; a retracted request goes
before any admission. A state machine without a clock: `step(now)` does what is due, `due` says when to call it next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from sun_sglang.sim.cost_model import CostModel

# SGLang's --num-reserved-decode-tokens: kept free for each active request before another one is admitted
RESERVED_TOKENS = 512


class Admitted(NamedTuple):
    """KV for the prompt is reserved: its transfer may begin."""

    rid: str


class Token(NamedTuple):
    """A request has `made` tokens now, one more than before."""

    rid: str
    made: int


class Ended(NamedTuple):
    """A request is over: it has all its tokens, or (`memory`) cannot grow even alone."""

    rid: str
    why: Literal["length", "memory"]


Event: TypeAlias = Admitted | Token | Ended


@dataclass(slots=True, eq=False)
class _Request:
    rid: str
    prompt: int
    limit: int
    made: int = 0
    retractions: int = 0

    @property
    def context(self) -> int:
        return self.prompt + self.made


class DecodeScheduler:
    """The queues and the batch of one decode worker.

    Args:
        costs: what a step takes.
        kv_tokens: tokens of KV that fit.
        reserved: tokens kept free for each active request before another is admitted.
        held: whether a request that has so many tokens gets no more for now. It keeps its KV.

    Attributes:
        costs: may be replaced; the next step takes what it says.
        due: when the step under way ends; None while there is none.
        used: tokens of KV held.
    """

    def __init__(
        self,
        costs: CostModel,
        *,
        kv_tokens: int,
        reserved: int = RESERVED_TOKENS,
        held: Callable[[str, int], bool] = lambda rid, made: False,
    ) -> None:
        self.costs = costs
        self.kv_tokens = kv_tokens
        self.due: float | None = None
        self.used = 0
        self._reserved = reserved
        self._is_held = held
        self._known: dict[str, _Request] = {}
        self._held: dict[str, int] = {}
        self._waiting: deque[_Request] = deque()
        self._arrived: list[_Request] = []
        self._running: dict[str, _Request] = {}
        self._batch: list[_Request] = []
        self._retracted: deque[_Request] = deque()

    @property
    def waiting(self) -> int:
        """Requests without KV that never had any."""
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        """Their prompts' tokens."""
        return sum(r.prompt for r in self._waiting)

    @property
    def transferring(self) -> int:
        """Requests with KV reserved whose first token has not come."""
        return len(self._held) - len(self._running)

    @property
    def running(self) -> int:
        """Requests that get a token a step."""
        return len(self._running)

    @property
    def retracted(self) -> int:
        """Requests that lost their KV and wait to go on."""
        return len(self._retracted)

    def retractions(self, rid: str) -> int:
        """How often a request lost its KV so far."""
        return self._known[rid].retractions

    def submit(self, rid: str, prompt: int, limit: int) -> None:
        """Queue a request with `prompt` prompt tokens that wants `limit` tokens.

        A prompt of `kv_tokens` or more never fits: whoever submits refuses it first.
        """
        assert 0 < prompt < self.kv_tokens
        assert limit >= 0
        assert rid not in self._known
        self._known[rid] = request = _Request(rid, prompt, limit)
        self._waiting.append(request)

    def arrive(self, rid: str) -> None:
        """The prompt's KV is here, with the first token."""
        assert rid in self._held
        self._arrived.append(self._known[rid])

    def drop(self, rid: str) -> None:
        """End a request early, wherever it is; nothing happens if it is over."""
        if rid in self._known:
            self._forget(self._known[rid])

    def step(self, now: float) -> list[Event]:
        """End a step that is due, admit, and start the next. Call after every change, and at `due`."""
        events: list[Event] = []
        if self.due is not None and now >= self.due:
            self.due = None
            for request in self._batch:
                if request.rid in self._running:
                    self._held[request.rid] += 1
                    self.used += 1
                    self._give(request, events)
            self._batch = []
        arrived, self._arrived = self._arrived, []
        for request in arrived:
            if request.rid not in self._known:
                continue
            if self._is_held(request.rid, 0):
                self._arrived.append(request)
            else:
                self._running[request.rid] = request
                self._give(request, events)
        if self.due is None:
            self._choose(events)
            self._admit(events)
            self._start(now)
        else:
            self._admit(events)
        assert 0 <= self.used <= self.kv_tokens
        return events

    def _give(self, request: _Request, events: list[Event]) -> None:
        if request.made < request.limit:
            request.made += 1
            events.append(Token(request.rid, request.made))
        if request.made >= request.limit:
            self._forget(request)
            events.append(Ended(request.rid, "length"))

    def _choose(self, events: list[Event]) -> None:
        """Who runs next. Where that one cannot grow and ends, those who gave way to it go on."""
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
        """Retract until every running request can grow by the token whose KV the next step writes."""
        # what a step under way will write is not yet held, so a batch is only ever chosen between steps
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
        while self._waiting and not self._retracted and self._fits(self._waiting[0].prompt):
            request = self._waiting.popleft()
            self._hold(request, request.prompt)
            events.append(Admitted(request.rid))

    def _fits(self, tokens: int) -> bool:
        # tokens that the step under way writes are spoken for
        free = self.kv_tokens - self.used - len(self._batch)
        return not self._held or tokens + self._reserved * len(self._held) <= free

    def _start(self, now: float) -> None:
        self._batch = [r for r in self._running.values() if not self._is_held(r.rid, r.made)]
        if self._batch:
            seconds = self.costs.decode_seconds(len(self._batch), sum(r.context for r in self._batch))
            self.due = now + seconds

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
