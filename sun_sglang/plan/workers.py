"""Simulated workers, each with what the router knows of it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.emulator.identity import TokenLimits, context_length, emulated_identity, make_card
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.plan.session_cache import SessionCache
from sun_sglang.router.workers.worker import Worker
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_runs import DecodeRuns
from sun_sglang.sim.prefill_scheduler import PrefillScheduler
from sun_sglang.topology import Role


@dataclass(eq=False, slots=True)
class PrefillWorker:
    """A prefill worker.

    Attributes:
        known: what the router knows.
        scheduler: what it does.
        costs: the seconds that its work takes.
        cache: the prefixes of sessions.
        at: time of its entry in the simulator's queue; infinite without one.
        busy: seconds of all batches so far, that of the running one included.
    """

    known: Worker
    scheduler: PrefillScheduler
    costs: CostModel
    cache: SessionCache
    at: float = math.inf
    busy: float = 0.0

    @property
    def due(self) -> float:
        """Time of its next step; infinite if nothing runs."""
        return math.inf if self.scheduler.due is None else self.scheduler.due


@dataclass(eq=False, slots=True)
class DecodeWorker:
    """A decode worker.

    Attributes:
        known: what the router knows.
        scheduler: what it does.
        costs: the seconds that its work takes.
        at: time of its entry in the simulator's queue; infinite without one.
        peak: the largest share of its KV that was held at a change of its batch.
    """

    known: Worker
    scheduler: DecodeRuns
    costs: CostModel
    at: float = math.inf
    peak: float = 0.0

    @property
    def due(self) -> float:
        """Time of its next step; infinite if nothing runs."""
        return self.scheduler.due


def make_prefill(pool: str, number: int, costs: CostModel, page_size: int = 1) -> PrefillWorker:
    """Return a prefill worker at clock time 0."""
    cache = SessionCache(page_size=page_size, kv_tokens=costs.kv_tokens)
    known = _known(pool, "prefill", number)
    return PrefillWorker(known, PrefillScheduler(costs, kv_tokens=costs.kv_tokens), costs, cache)


def make_decode(pool: str, number: int, costs: CostModel) -> DecodeWorker:
    """Return a decode worker at clock time 0."""
    return DecodeWorker(_known(pool, "decode", number), DecodeRuns(costs, kv_tokens=costs.kv_tokens), costs)


def _known(pool: str, role: Role, number: int) -> Worker:
    worker = Worker(FleetWorker(name=f"{pool}-{number}", pool=pool, url="http://simulated:1"), role)
    # a policy that remembers workers knows them by their start
    worker.accept_card(_card(role).model_copy(update={"incarnation": worker.name}), "")
    return worker


@cache
def _card(role: Role) -> WorkerCard:
    settings = parse_settings(["--model-path", "simulated", "--disaggregation-mode", role])
    return make_card(
        settings, emulated_identity(settings), TokenLimits(context_length(settings), CostModel().kv_tokens)
    )
