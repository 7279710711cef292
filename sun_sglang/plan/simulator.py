"""A deployment in virtual time: a discrete-event simulation. Pure.

The router's own code admits requests (`FairQueue`) and chooses workers (`PairSelector`), and the workers are the
schedulers of emulated workers. Decode workers are advanced in closed form (`DecodeRuns`), so that a request costs a few
events however long its answer is. As in SGLang, a prompt is computed once its decode worker has reserved KV, and its
first token arrives with the KV.

Prefix caches hold the contexts of sessions. Left out: the time of the network and of the router itself, other common
beginnings of prompts, the caches of decode workers, adapters and modules of shared prefill workers, and faults.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from sun_sglang.plan.system import PlannedPool, System
from sun_sglang.plan.traffic import Arrival
from sun_sglang.plan.workers import DecodeWorker, PrefillWorker, make_decode, make_prefill
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.fair_queue import FairQueue, QueueFull
from sun_sglang.router.scheduling.pair_grid import PairGrid
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.scheduling.prefix_keys import NO_KEYS, PrefixKeys
from sun_sglang.router.scheduling.ranked_workers import RankedWorkers
from sun_sglang.router.scheduling.task_queue import Caps, Claim, Share
from sun_sglang.sim.decode_scheduler import Admitted, Ended, Token
from sun_sglang.topology import Role


@dataclass(slots=True, eq=False)
class Request:
    """A request and the times of its stages, in seconds; not a number before it reaches one.

    Attributes:
        number: its number, from 0.
        arrival: the request.
        claim: its claim to a slot.
        prefill: the worker of its prompt.
        decode: the worker of its answer.
        sent: it was sent to its workers.
        admitted: the decode worker reserved KV.
        first: the first token.
        ended: the last token, or the refusal.
        cached: tokens of the prompt that were in the cache.
        failure: why it has no answer: `full`, `timeout` (the router's queue), `length` or `memory`; empty if it has.
    """

    number: int
    arrival: Arrival
    claim: Claim
    prefill: PrefillWorker | None = None
    decode: DecodeWorker | None = None
    sent: float = math.nan
    admitted: float = math.nan
    first: float = math.nan
    ended: float = math.nan
    cached: int = 0
    failure: str = ""


class Recorder(Protocol):
    """Receives each request at its end."""

    def note(self, request: Request) -> None:
        """Take a request that has ended, in the order of the ends."""


@dataclass(slots=True, eq=False)
class _Timer:
    """A call at a time."""

    call: Callable[[float], None]


class Simulator:
    """A system at clock time 0.

    Args:
        system: the system.
        recorder: receives the requests.
        seed: of the router's random choices.

    Attributes:
        now: clock seconds.
        events: number of events so far.
    """

    def __init__(self, system: System, recorder: Recorder, *, seed: int = 0) -> None:
        self.now = 0.0
        self.events = 0
        self._system = system
        self._recorder = recorder
        self._decode_first = system.first_token == "decode"
        self._selector = PairSelector(system.policies, random.Random(seed))
        self.prefills = {
            name: [make_prefill(name, i, pool.costs, system.page_size) for i in range(pool.workers)]
            for name, pool in self._pools("prefill")
        }
        self.decodes = {
            name: [make_decode(name, i, pool.costs) for i in range(pool.workers)]
            for name, pool in self._pools("decode")
        }
        self._of_prefill = {w.known: w for pool in self.prefills.values() for w in pool}
        self._of_decode = {w.known: w for pool in self.decodes.values() for w in pool}
        known = {name: [worker.known for worker in pool] for name, pool in self.prefills.items()}
        known |= {name: [worker.known for worker in pool] for name, pool in self.decodes.items()}
        self._ranked = {name: RankedWorkers(pool) for name, pool in known.items()}
        self._grids: dict[tuple[str, str], PairGrid] = {}
        limits = system.admission
        shares = {t.name: Share(t.weight, Caps(t.max_requests, t.max_tokens)) for t in system.tasks}
        self._queue = FairQueue(Caps(limits.max_requests, limits.max_tokens), limits.queue_size, shares.__getitem__)
        self._waiting: dict[Claim, Request] = {}
        self._requests: dict[str, Request] = {}
        self._picks = count(1)
        self._orders = count()
        # (time, order, what is due): a worker, the end of a transfer, or a timer
        self._due: list[tuple[float, int, PrefillWorker | DecodeWorker | Request | _Timer]] = []

    @property
    def in_flight(self) -> int:
        """Number of requests on workers."""
        return len(self._requests)

    @property
    def waiting(self) -> int:
        """Number of requests in the router's queue."""
        return len(self._waiting)

    def run(self, arrivals: Iterable[Arrival], *, until: Callable[[], bool] = lambda: False) -> None:
        """Play a load to the end of its last request.

        Args:
            arrivals: the requests in the order of time; read as they come.
            until: ends the run early where it returns true; called after each request has arrived.
        """
        for number, arrival in enumerate(arrivals):
            assert arrival.at >= self.now
            self.advance(arrival.at)
            self.now = arrival.at
            self.send(number, arrival)
            if until():
                return
        self.advance(math.inf)

    def advance(self, end: float) -> None:
        """Do everything that is due before a time."""
        due = self._due
        while due and due[0][0] < end:
            time, _, what = heappop(due)
            if isinstance(what, Request):
                self.now = time
                self._end_transfer(what)
            elif isinstance(what, _Timer):
                self.now = time
                what.call(time)
            elif what.at == time:
                self.now = time
                what.at = math.inf
                if isinstance(what, DecodeWorker):
                    self._step_decode(what)
                else:
                    self._step_prefill(what)
            else:
                continue
            self.events += 1

    def call_at(self, time: float, call: Callable[[float], None]) -> None:
        """Call a function with the time, at a time."""
        heappush(self._due, (time, next(self._orders), _Timer(call)))

    def send(self, number: int, arrival: Arrival) -> None:
        """Give the router a request that arrives now."""
        self.events += 1
        task = self._system.tasks[arrival.task]
        request = Request(number, arrival, Claim(task.name, arrival.prompt + arrival.answer))
        if arrival.prompt + 1 >= min(
            self._system.pools[task.prefill].costs.kv_tokens, self._system.pools[task.decode].costs.kv_tokens
        ):
            self._fail(request, "length")
            return
        try:
            held = self._queue.acquire([request.claim])
        except QueueFull:
            self._fail(request, "full")
            return
        if not request.claim.held:
            self._waiting[request.claim] = request
            self.call_at(self.now + self._system.admission.queue_timeout, lambda _: self._expire(request))
        for claim in held:
            self._dispatch(request if claim is request.claim else self._waiting.pop(claim))

    def set_serving(self, pool: str, workers: Iterable[DecodeWorker]) -> None:
        """Make these workers, at least one, the ones of a decode pool that take new requests."""
        self._ranked[pool].close()
        self._ranked[pool] = RankedWorkers([worker.known for worker in workers])
        self._grids.clear()

    def _pools(self, role: Role) -> Iterable[tuple[str, PlannedPool]]:
        return ((name, pool) for name, pool in self._system.pools.items() if pool.role == role)

    # --- the router ---------------------------------------------------------------------------------------------------

    def _grid(self, prefill: str, decode: str) -> PairGrid:
        grid = self._grids.get((prefill, decode))
        if grid is None:
            grid = self._grids[prefill, decode] = PairGrid(self._ranked[prefill], self._ranked[decode])
        return grid

    def _dispatch(self, request: Request) -> None:
        arrival, task = request.arrival, self._system.tasks[request.arrival.task]
        both = arrival.prompt + arrival.answer
        keys = NO_KEYS if arrival.session is None else PrefixKeys((arrival.session,))
        pair = self._selector.select(self._grid(task.prefill, task.decode), Cost(arrival.prompt, both), keys)
        assert pair is not None, "every pool has a worker"
        number = next(self._picks)
        pair.prefill.note_pick(number)
        pair.decode.note_pick(number)
        pair.prefill.load.acquire(arrival.prompt)
        pair.decode.load.acquire(both)
        request.sent = self.now
        request.prefill, request.decode = self._of_prefill[pair.prefill], self._of_decode[pair.decode]
        rid = str(request.number)
        self._requests[rid] = request
        request.decode.scheduler.submit(rid, arrival.prompt, arrival.answer, makes_first=self._decode_first)
        self._step_decode(request.decode)

    def _expire(self, request: Request) -> None:
        if self._waiting.pop(request.claim, None) is not None:
            self._release(request)
            self._fail(request, "timeout")

    def _release(self, request: Request) -> None:
        for claim in self._queue.release([request.claim]):
            self._dispatch(self._waiting.pop(claim))

    def _fail(self, request: Request, why: str) -> None:
        request.failure, request.ended = why, self.now
        self._recorder.note(request)

    # --- the workers --------------------------------------------------------------------------------------------------

    def _step_decode(self, worker: DecodeWorker) -> None:
        scheduler, now = worker.scheduler, self.now
        events = scheduler.step(now)
        self._schedule(worker, scheduler.due)
        if scheduler.used > worker.peak * scheduler.kv_tokens:
            worker.peak = scheduler.used / scheduler.kv_tokens
        for event in events:
            request = self._requests[event.rid]
            if isinstance(event, Admitted):
                request.admitted = now
                self._prefill(request, event.rid)
            elif isinstance(event, Token):
                request.first = now
            elif isinstance(event, Ended):
                self._end(request, event.why)

    def _prefill(self, request: Request, rid: str) -> None:
        worker, arrival = request.prefill, request.arrival
        assert worker is not None
        tokens = arrival.prompt - self._decode_first
        if arrival.session is not None:
            request.cached = min(worker.cache.match(arrival.session, tokens), tokens - 1)
        worker.scheduler.submit(rid, tokens, cached=request.cached, since=arrival.at)
        self._step_prefill(worker)

    def _step_prefill(self, worker: PrefillWorker) -> None:
        scheduler, before = worker.scheduler, worker.scheduler.due
        for done in scheduler.step(self.now):
            request = self._requests[done.rid]
            tokens = request.arrival.prompt - self._decode_first
            if request.arrival.session is not None:
                worker.cache.insert(request.arrival.session, tokens)
            seconds = worker.costs.transfer_seconds(tokens * self._system.kv_bytes)
            heappush(self._due, (self.now + seconds, next(self._orders), request))
        if scheduler.due is not None and scheduler.due != before:
            worker.busy += scheduler.due - self.now
        self._schedule(worker, worker.due)

    def _schedule(self, worker: PrefillWorker | DecodeWorker, due: float) -> None:
        if due != worker.at:
            worker.at = due
            if due < math.inf:
                heappush(self._due, (due, next(self._orders), worker))

    def _end_transfer(self, request: Request) -> None:
        prefill, decode = request.prefill, request.decode
        assert prefill is not None
        assert decode is not None
        rid = str(request.number)
        prefill.scheduler.release(rid)
        prefill.known.load.release(request.arrival.prompt)
        self._step_prefill(prefill)
        decode.scheduler.arrive(rid)
        self._step_decode(decode)

    def _end(self, request: Request, why: str) -> None:
        assert request.decode is not None
        request.decode.known.load.release(request.arrival.prompt + request.arrival.answer)
        del self._requests[str(request.number)]
        request.ended = self.now
        request.failure = "memory" if why == "memory" else ""
        self._recorder.note(request)
        self._release(request)


def simulate(
    system: System, arrivals: Iterable[Arrival], recorder: Recorder, *, seed: int = 0
) -> Mapping[str, list[DecodeWorker]]:
    """Play a load to its end, and return the decode workers by pool.

    Args:
        system: the system.
        arrivals: the requests in the order of time.
        recorder: receives the requests.
        seed: of the router's random choices.
    """
    simulator = Simulator(system, recorder, seed=seed)
    simulator.run(arrivals)
    return simulator.decodes
