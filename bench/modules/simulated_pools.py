"""Pools of prefill and decode workers behind the router's selection of workers, in virtual time. Pure.

Workers are the schedulers of emulated workers (`sim/`), and the router's own `PairSelector` chooses among them, with
what a router knows: its own requests at once, and the rest from reports that it reads once a second. As in SGLang, a
prompt is computed once its decode worker has reserved KV, and its first token arrives with the KV.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from sun_sglang.bench.modules.one_worker import Waits
from sun_sglang.bench.modules.prefill_load import Arrival, PrefillLoad
from sun_sglang.bench.modules.simulated_workers import SimulatedDecode, SimulatedPrefill, make_decode, make_prefill
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Admitted, Ended, Event, Token
from sun_sglang.sim.prefill_scheduler import Prefilled
from sun_sglang.topology import Policies

_REPORT_S = 1.0
_KV_BYTES = 131072
"""Bytes of KV of one token: 32 layers, 8 KV heads of 128, keys and values, 2 bytes."""


@dataclass(frozen=True)
class PoolSizes:
    """Workers of a deployment.

    Attributes:
        prefill: prefill workers on which the modules of all tasks take turns; 0: each task has a worker of its own.
        decode: decode workers, which all tasks share.
    """

    prefill: int
    decode: int


class _Sent(NamedTuple):
    arrival: Arrival
    pair: Pair
    tokens: int


class SimulatedPools:
    """A deployment at clock time 0.

    Args:
        sizes: its workers.
        tasks: number of tasks.
        costs: of every worker.
        answer: tokens of an answer.
        slo: seconds within which workers should compute prompts.

    Attributes:
        waits: seconds from each request's arrival to its first token, with the time of its arrival.
    """

    def __init__(self, sizes: PoolSizes, tasks: int, costs: CostModel, *, answer: int, slo: float) -> None:
        self.waits: list[tuple[float, float]] = []
        self._costs = costs
        self._answer = answer
        shared = sizes.prefill > 0
        self._prefills = [make_prefill(i, costs, slo if shared else None) for i in range(sizes.prefill or tasks)]
        self._decodes = [make_decode(i, costs) for i in range(sizes.decode)]
        self._of_prefill = {worker.known: worker for worker in self._prefills}
        self._of_decode = {worker.known: worker for worker in self._decodes}
        self._pairs = [self._pairs_of(task, shared) for task in range(tasks)]
        self._selector = PairSelector(Policies(), random.Random(0))
        self._sent: dict[str, _Sent] = {}
        self._picks = count(1)
        self._transfers: list[tuple[float, str]] = []
        # a worker is in the heap at each time at which it was due once; its place breaks ties
        self._dues: list[tuple[float, int, SimulatedPrefill | SimulatedDecode]] = []
        self._places = {worker: place for place, worker in enumerate((*self._prefills, *self._decodes))}

    @property
    def due(self) -> float:
        """The time of the next call of `step`; infinite if nothing runs."""
        while self._dues and self._dues[0][2].scheduler.due != self._dues[0][0]:
            heappop(self._dues)
        times = [heap[0][0] for heap in (self._dues, self._transfers) if heap]
        return min(times, default=float("inf"))

    @property
    def changes(self) -> tuple[int, float]:
        """The changes of modules so far, and the seconds that they took."""
        found = [one for worker in self._prefills if worker.turns for one in worker.turns.changed.values()]
        return sum(one.changes for one in found), sum(one.seconds for one in found)

    def send(self, number: int, arrival: Arrival) -> None:
        """Send a request to the workers that the router selects for it."""
        tokens = arrival.prompt + self._answer
        pair = self._selector.select(self._pairs[arrival.task], Cost(arrival.prompt, tokens))
        assert pair is not None, "every task has a pair"
        for worker in pair:
            worker.note_pick(next(self._picks))
        pair.prefill.load.acquire(arrival.prompt)
        pair.prefill.modules.acquire(pair.module)
        pair.decode.load.acquire(tokens)
        rid = str(number)
        self._sent[rid] = _Sent(arrival, pair, tokens)
        decode = self._of_decode[pair.decode]
        decode.scheduler.submit(rid, arrival.prompt, self._answer)
        self._run([decode], arrival.at)

    def step(self, now: float) -> None:
        """Do the work that is due at `now`."""
        ready: list[SimulatedPrefill | SimulatedDecode] = []
        while self._transfers and self._transfers[0][0] <= now:
            ready += self._end_transfer(heappop(self._transfers)[1])
        while self._dues and self._dues[0][0] <= now:
            ready.append(heappop(self._dues)[2])
        self._run(list(dict.fromkeys(ready)), now)

    def report(self) -> None:
        """Let the router read the report of every prefill worker."""
        for worker in self._prefills:
            worker.report()

    def _pairs_of(self, task: int, shared: bool) -> list[Pair]:
        module = ModuleRef(directory=f"module-{task}", revision=f"{task + 1:016x}", size=0) if shared else None
        prefills = self._prefills if shared else [self._prefills[task]]
        return [Pair(prefill.known, decode.known, module) for prefill in prefills for decode in self._decodes]

    def _run(self, workers: Sequence[SimulatedPrefill | SimulatedDecode], now: float) -> None:
        """Step workers, and the workers to which their events lead."""
        waiting = list(workers)
        while waiting:
            worker = waiting.pop(0)
            before = worker.scheduler.due
            for event in worker.scheduler.step(now):
                waiting += self._follow(event, now)
            due = worker.scheduler.due
            if due is not None and (due != before or due <= now):
                heappush(self._dues, (due, self._places[worker], worker))

    def _follow(self, event: Prefilled | Event, now: float) -> list[SimulatedPrefill | SimulatedDecode]:
        """Do what follows from an event, and return the workers to step because of it."""
        sent = self._sent[event.rid]
        match event:
            case Admitted(rid):
                prefill = self._of_prefill[sent.pair.prefill]
                module = sent.pair.module or None
                prefill.scheduler.submit(rid, sent.arrival.prompt, module=module, since=sent.arrival.at)
                return [prefill]
            case Prefilled(rid):
                seconds = self._costs.transfer_seconds(sent.arrival.prompt * _KV_BYTES)
                heappush(self._transfers, (now + seconds, rid))
            case Token(_, made):
                if made == 1:
                    self.waits.append((sent.arrival.at, now - sent.arrival.at))
            case Ended(rid, why):
                assert why == "length", "an answer fits into the KV cache"
                sent.pair.decode.load.release(sent.tokens)
                del self._sent[rid]
        return []

    def _end_transfer(self, rid: str) -> list[SimulatedPrefill | SimulatedDecode]:
        sent = self._sent[rid]
        prefill, decode = self._of_prefill[sent.pair.prefill], self._of_decode[sent.pair.decode]
        prefill.scheduler.release(rid)
        prefill.known.load.release(sent.arrival.prompt)
        prefill.known.modules.note_computed(sent.pair.module)
        prefill.known.modules.release(sent.pair.module)
        decode.scheduler.arrive(rid)
        return [prefill, decode]


class PoolsRun(NamedTuple):
    """The measured part of a run.

    Attributes:
        waits: TTFT of the requests that arrived after the warm-up.
        changes_per_s: changes of modules a second, of all workers together, while requests arrived.
        lost: share of the prefill workers' time that changes took meanwhile.
    """

    waits: Waits
    changes_per_s: float
    lost: float


def simulate(
    load: PrefillLoad, sizes: PoolSizes, costs: CostModel, *, answer: int, slo: float, warmup: float, seed: int
) -> PoolsRun:
    """Run a load to its end.

    Args:
        load: the load, its warm-up included.
        sizes: the workers.
        costs: of every worker.
        answer: tokens of an answer.
        slo: seconds within which workers should compute prompts.
        warmup: seconds at the beginning that are not measured.
        seed: of the load.
    """
    pools = SimulatedPools(sizes, load.tasks, costs, answer=answer, slo=slo)
    arrivals, sent, report = load.arrivals(seed), 0, 0.0
    marks, seen = [warmup, load.seconds], list[tuple[int, float]]()
    now = 0.0
    while sent < len(arrivals) or pools.due < float("inf"):
        arrives = arrivals[sent].at if sent < len(arrivals) else float("inf")
        now = min(arrives, pools.due, report)
        while marks and now >= marks[0]:
            seen.append(pools.changes)
            marks.pop(0)
        if now == report:
            pools.report()
            report += _REPORT_S
        elif now == arrives:
            pools.send(sent, arrivals[sent])
            sent += 1
        else:
            pools.step(now)
    seen += [pools.changes] * len(marks)
    (before, seconds_before), (after, seconds_after) = seen
    seconds = load.seconds - warmup
    waits = tuple(sorted(wait for at, wait in pools.waits if at >= warmup))
    workers = sizes.prefill or load.tasks
    return PoolsRun(
        Waits(waits, after - before, now),
        (after - before) / seconds,
        (seconds_after - seconds_before) / seconds / workers,
    )
