"""A decode worker in closed form: what `DecodeScheduler` does, without a call for each step. Pure.

Between two changes of its batch a worker makes runs of steps. A step of B requests with C tokens of context takes
d = a + c B + k C seconds, and each step adds B tokens of context, so n steps take n d + k B n (n - 1) / 2 seconds. A
caller is needed only where something changes: a request is submitted, its KV arrives, it ends, or the KV runs out.

The results are those of `DecodeScheduler` under the same calls, but for the rounding of floats. It has no LoRA
adapters and no held requests, and of an answer's tokens it reports the first alone; `made` computes their number at any
moment.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import RESERVED_TOKENS, Admitted, Ended, Event, Token


@dataclass(slots=True, eq=False)
class _Request:
    """A request on the worker.

    Attributes:
        made: its tokens when it joined the batch, or now while it is not in the batch.
        joined: the number of the worker's step before its first one in the batch.
        place: its place in the order of the batch; 0 while it is not in the batch.
    """

    rid: str
    prompt: int
    limit: int
    makes_first: bool
    made: int = 0
    joined: int = 0
    place: int = 0

    @property
    def received(self) -> int:
        return self.prompt - self.makes_first


class DecodeRuns:
    """The queues and the batch of one decode worker, advanced by whole runs of steps.

    Args:
        costs: the seconds that a step takes.
        kv_tokens: tokens of KV that fit.
        reserved: tokens of KV kept free for each active request when another one is admitted.

    Attributes:
        due: time of the next call of `step`; infinite if no step runs.
        kv_tokens: as given.
        lost: number of times that a request has lost its KV.
    """

    def __init__(self, costs: CostModel, *, kv_tokens: int, reserved: int = RESERVED_TOKENS) -> None:
        self.due = math.inf
        self.kv_tokens = kv_tokens
        self.lost = 0
        self._base, self._per_request = costs.decode_step, costs.decode_per_request
        self._per_token = costs.decode_per_context_token
        self._reserved = reserved
        self._known: dict[str, _Request] = {}
        self._held = 0
        self._waiting: deque[_Request] = deque()
        self._arrived: list[_Request] = []
        self._retracted: deque[_Request] = deque()
        # The state at the end of a step: its time, which is that of the running step's end if `_at` is in the future,
        # its number, the KV held and the context of the batch. What arrived during the step is in the batch already.
        self._at = 0.0
        self._begun = False
        # whether KV was freed since retracted requests were last tried
        self._freed = False
        self._steps = 0
        self._due_steps = 0
        self._used = 0
        self._context = 0
        self._running: dict[str, _Request] = {}
        self._ends: list[tuple[int, int, _Request]] = []
        # first tokens that this worker makes
        self._firsts: list[tuple[int, int, _Request]] = []
        self._places = 0

    @property
    def requests(self) -> int:
        """Number of requests on the worker."""
        return len(self._known)

    @property
    def used(self) -> int:
        """Tokens of KV held at the end of the step that ran at the last call."""
        return self._used

    def made(self, rid: str, now: float) -> int:
        """Return the number of tokens that a request on the worker has at a time between the last call and `due`."""
        request = self._known[rid]
        if not request.place:
            return request.made
        # before `_at`, the step that ends there runs
        passed = self._steps_by(now) if now >= self._at else -1
        return request.made + max(0, self._steps + passed - request.joined)

    def submit(self, rid: str, prompt: int, limit: int, *, makes_first: bool = False) -> None:
        """Queue a request; see `DecodeScheduler.submit`."""
        assert makes_first < prompt < self.kv_tokens
        assert limit >= 0
        assert rid not in self._known
        self._known[rid] = request = _Request(rid, prompt, limit, makes_first)
        self._waiting.append(request)

    def arrive(self, rid: str) -> None:
        """Record that the KV of a prompt has arrived, with the first token unless this worker makes it."""
        self._arrived.append(self._known[rid])

    def step(self, now: float) -> list[Event]:
        """Do what is due, and return the events in order; of the tokens only the first of each request.

        Call it after every change, and at `due`.
        """
        assert now <= self.due
        events: list[Event] = []
        between = not self._running or self._reach(now)
        if between:
            while self._firsts and self._firsts[0][0] <= self._steps:
                _, place, request = heappop(self._firsts)
                if request.place == place:
                    events.append(Token(request.rid, 1))
            while self._ends and self._ends[0][0] <= self._steps:
                _, place, request = heappop(self._ends)
                if request.place == place:
                    self._forget(request)
                    events.append(Ended(request.rid, "length"))
        arrived, self._arrived = self._arrived, []
        for request in arrived:
            self._land(request, events)
        if between:
            self._select(events)
            self._at, self._begun = now, True
        if self._waiting:
            self._admit(events)
        self._set_due()
        return events

    def _reach(self, now: float) -> bool:
        """Advance to `now` if a step ends there, else to the end of the running step. Return whether one ends now."""
        if now < self._at:
            return False
        steps = self._due_steps if now == self.due else self._steps_by(now)
        time = self._time(steps)
        # a step that begins now was begun by an earlier call if that call was at the same time
        ends = time == now and not (steps == 0 and self._begun)
        if not ends:
            steps += 1
            time = self._time(steps)
        added = steps * len(self._running)
        self._used += added
        self._context += added
        self._steps += steps
        self._at, self._begun = time, False
        return ends

    def _time(self, steps: int) -> float:
        """Return the time at which this many steps of the batch, begun at `_at`, have ended."""
        batch = len(self._running)
        first = self._base + self._per_request * batch + self._per_token * self._context
        return self._at + steps * first + self._per_token * batch * (steps * (steps - 1) / 2)

    def _steps_by(self, now: float) -> int:
        """Return the number of steps since `_at` that have ended at `now`, which is before `due`."""
        if not self._running:
            return 0
        batch = len(self._running)
        half = self._per_token * batch / 2
        linear = self._base + self._per_request * batch + self._per_token * self._context - half
        passed = now - self._at
        root = linear + math.sqrt(linear * linear + 4 * half * passed)
        steps = min(int(2 * passed / root), self._due_steps) if root > 0 else self._due_steps
        while steps and self._time(steps) > now:
            steps -= 1
        while steps < self._due_steps and self._time(steps + 1) <= now:
            steps += 1
        return steps

    def _set_due(self) -> None:
        while self._ends and self._ends[0][2].place != self._ends[0][1]:
            heappop(self._ends)
        batch = len(self._running)
        if not batch:
            self.due = math.inf
            return
        steps = min(self._ends[0][0] - self._steps, (self.kv_tokens - self._used) // batch)
        if self._firsts:
            steps = min(steps, self._firsts[0][0] - self._steps)
        if self._retracted and self._freed:
            # a retracted request may resume at the end of the next step, or of the running one
            steps = min(steps, int(self._begun))
        self._due_steps = steps = max(0, steps)
        self.due = self._time(steps)

    def _land(self, request: _Request, events: list[Event]) -> None:
        """Take a request whose KV has arrived into the batch, or end it."""
        if not request.makes_first or not request.limit:
            if request.made < request.limit:
                request.made += 1
                events.append(Token(request.rid, request.made))
            if request.made >= request.limit:
                self._forget(request)
                events.append(Ended(request.rid, "length"))
                return
        self._join(request)

    def _join(self, request: _Request) -> None:
        self._places += 1
        request.place, request.joined = self._places, self._steps
        self._running[request.rid] = request
        self._context += request.prompt + request.made
        heappush(self._ends, (self._steps + request.limit - request.made, request.place, request))
        if not request.made:
            heappush(self._firsts, (self._steps + 1, request.place, request))

    def _leave(self, request: _Request) -> None:
        """Take a request out of the batch, if it is there, and free its KV."""
        if request.place:
            request.made += self._steps - request.joined
            request.place = 0
            del self._running[request.rid]
            self._context -= request.prompt + request.made
            # the last token has no KV yet
            self._used -= request.prompt + request.made - 1
        else:
            self._used -= request.received
        self._held -= 1
        self._freed = True

    def _forget(self, request: _Request) -> None:
        self._leave(request)
        del self._known[request.rid]

    def _select(self, events: list[Event]) -> None:
        """Select the requests of the next step. If the last one does not fit and ends, retracted ones resume."""
        while True:
            while self._retracted and self._fits(self._retracted[0].prompt + self._retracted[0].made):
                request = self._retracted.popleft()
                self._held += 1
                self._used += request.prompt + request.made - 1
                self._join(request)
            self._freed = False
            self._make_room(events)
            if self._held or not self._retracted:
                return

    def _make_room(self, events: list[Event]) -> None:
        """Retract requests until the KV of the next step's tokens fits."""
        while self._running and self._used + len(self._running) > self.kv_tokens:
            if len(self._running) == 1 and self._held == 1:
                (request,) = self._running.values()
                self._forget(request)
                events.append(Ended(request.rid, "memory"))
                return
            request = min(self._running.values(), key=lambda r: (r.made + self._steps - r.joined, -r.prompt))
            self._leave(request)
            self.lost += 1
            self._retracted.append(request)

    def _admit(self, events: list[Event]) -> None:
        while self._waiting and not self._retracted and self._fits(self._waiting[0].received):
            request = self._waiting.popleft()
            self._held += 1
            self._used += request.received
            events.append(Admitted(request.rid))

    def _fits(self, tokens: int) -> bool:
        # during a step, the KV that it writes is counted already
        return not self._held or tokens + self._reserved * self._held <= self.kv_tokens - self._used
