"""Prefill workers with modules that take turns, behind the router's selection, in virtual time.

The requests go where a selection sends them, with what the router knows: its own requests at once, and the rest from
the workers' reports, read once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sun_sglang.bench.modules.one_worker import Waits
from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.module_turns.turns import Turns
from sun_sglang.router.scheduling.policies import LeastTokens
from sun_sglang.router.scheduling.prefix_keys import NO_KEYS
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.prefill_scheduler import PrefillScheduler
from tests.unit.router.registries import card
from tests.unit.router.weights_refs import MODULE_LIMITS, module

_OWN = "f" * 16
_REPORT_S = 1.0

Prefer = Callable[[Sequence[Pair], int], Sequence[Pair]]
"""Returns the pairs among which `least_tokens` selects, from the pairs and the prompt's tokens."""


class _Sent(NamedTuple):
    tokens: int
    module: str
    since: float


@dataclass(eq=False)
class _Simulated:
    """A worker: what the router knows of it, what it does, and its requests."""

    known: Worker
    scheduler: PrefillScheduler
    turns: Turns
    sent: dict[str, _Sent] = field(default_factory=dict)

    @classmethod
    def new(cls, number: int, costs: CostModel) -> _Simulated:
        known = Worker(FleetWorker(name=f"p{number}", pool="p", url="http://p:1"), "prefill")
        known.accept_card(card("prefill", modules=MODULE_LIMITS), "")
        turns = Turns(_OWN, slo=1.0, now=0.0)
        # no KV runs out: it is freed when a prompt was computed
        return cls(known, PrefillScheduler(costs, kv_tokens=10**9, turns=turns), turns)

    def report(self) -> None:
        pace = self.turns.pace
        self.known.modules.begin_report()
        self.known.modules.end_report(
            ModulesReport(
                loaded=self.turns.loaded,
                own=_OWN,
                queued=self.scheduler.queued,
                change_seconds=pace.change,
                tokens_per_second=pace.tokens,
            )
        )

    def submit(self, rid: str, tokens: int, revision: str, now: float) -> None:
        self.known.load.acquire(tokens)
        self.known.modules.acquire(revision)
        self.sent[rid] = _Sent(tokens, revision, now)
        self.scheduler.submit(rid, tokens, module=revision, since=now)

    def step(self, now: float) -> list[float]:
        """Do what is due, and return how long each prompt that was computed had waited."""
        waits = []
        for done in self.scheduler.step(now):
            tokens, revision, since = self.sent.pop(done.rid)
            self.scheduler.release(done.rid)
            self.known.load.release(tokens)
            self.known.modules.note_computed(revision)
            self.known.modules.release(revision)
            waits.append(now - since)
        return waits


def simulate(load: PrefillLoad, costs: CostModel, count: int, prefer: Prefer) -> Waits:
    """Run a load to its end on `count` workers."""
    workers = [_Simulated.new(number, costs) for number in range(count)]
    of = {worker.known: worker for worker in workers}
    decode = Worker(FleetWorker(name="d", pool="d", url="http://d:1"), "decode")
    tasks = [module(number) for number in range(load.tasks)]
    arrivals, waits, number, now, report = load.arrivals(0), list[float](), 0, 0.0, 0.0
    while number < len(arrivals) or any(worker.sent for worker in workers):
        due = min((w.scheduler.due for w in workers if w.scheduler.due is not None), default=float("inf"))
        arrives = arrivals[number].at if number < len(arrivals) else float("inf")
        now = min(due, arrives, report)
        if now == report:
            report += _REPORT_S
            for worker in workers:
                worker.report()
        elif now == arrives:
            task = tasks[arrivals[number].task]
            tokens = arrivals[number].prompt
            pairs = prefer([Pair(worker.known, decode, task) for worker in workers], tokens)
            known = LeastTokens().pick([pair.prefill for pair in pairs], tokens, NO_KEYS)
            number += 1
            known.note_pick(number)
            of[known].submit(str(number), tokens, task.revision, now)
        for worker in workers:
            if worker.scheduler.due is None or worker.scheduler.due <= now:
                waits += worker.step(now)
    changes = sum(one.changes for worker in workers for one in worker.turns.changed.values())
    return Waits(tuple(sorted(waits)), changes, now)
