"""Simulated prefill and decode workers, each with what the router knows of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.module import ModuleLimits
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.emulator.identity import TokenLimits, context_length, emulated_identity, make_card
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.module_turns.turns import Turns
from sun_sglang.router.workers.worker import Worker
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import DecodeScheduler
from sun_sglang.sim.prefill_scheduler import PrefillScheduler
from sun_sglang.topology import Role

OWN = "0" * 16
"""Revision of the model with which workers start; no task has it."""


@dataclass(eq=False)
class SimulatedPrefill:
    """A prefill worker.

    Attributes:
        known: what the router knows.
        scheduler: what it does.
        turns: the turns of its modules; None where it serves its own model alone.
    """

    known: Worker
    scheduler: PrefillScheduler
    turns: Turns | None

    def report(self) -> None:
        """Report the modules to the router, as `GET /sun/modules` does."""
        if self.turns is None:
            return
        self.known.modules.begin_report()
        self.known.modules.end_report(
            ModulesReport(
                loaded=self.turns.loaded,
                own=OWN,
                queued=self.scheduler.queued,
                change_seconds=self.turns.pace.change,
                tokens_per_second=self.turns.pace.tokens,
            )
        )


@dataclass(eq=False)
class SimulatedDecode:
    """A decode worker.

    Attributes:
        known: what the router knows.
        scheduler: what it does.
    """

    known: Worker
    scheduler: DecodeScheduler


def make_prefill(number: int, costs: CostModel, slo: float | None) -> SimulatedPrefill:
    """Return a prefill worker at clock time 0.

    Args:
        number: its number.
        costs: its costs.
        slo: seconds within which prompts should be computed, for a worker whose modules take turns; None for a worker
            that serves its own model alone.
    """
    turns = None if slo is None else Turns(OWN, slo=slo, now=0.0)
    # every module stays in host memory
    limits = None if slo is None else ModuleLimits(host_bytes=1 << 50, ttft_slo=slo)
    known = _known("prefill", number, _card("prefill", costs, limits))
    return SimulatedPrefill(known, PrefillScheduler(costs, kv_tokens=costs.kv_tokens, turns=turns), turns)


def make_decode(number: int, costs: CostModel) -> SimulatedDecode:
    """Return a decode worker at clock time 0."""
    known = _known("decode", number, _card("decode", costs, None))
    return SimulatedDecode(known, DecodeScheduler(costs, kv_tokens=costs.kv_tokens))


def _known(role: Role, number: int, card: WorkerCard) -> Worker:
    worker = Worker(FleetWorker(name=f"{role}-{number}", pool=role, url="http://simulated:1"), role)
    worker.accept_card(card, "")
    return worker


def _card(role: Role, costs: CostModel, modules: ModuleLimits | None) -> WorkerCard:
    settings = parse_settings(["--model-path", "simulated/base", "--disaggregation-mode", role])
    settings = settings.model_copy(update={"modules": modules})
    return make_card(settings, emulated_identity(settings), TokenLimits(context_length(settings), costs.kv_tokens))
