"""The settings of the policy, from the topology."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.autoscaling.policy import Bounds
from sun_sglang.autoscaling.sizing import Target, require_feasible
from sun_sglang.autoscaling.step_cost import CorrectedCost, LearnedCost, step_cost
from sun_sglang.launch.planning.plan import PoolScaling
from sun_sglang.sim.cost_model import CostModel, load_costs
from sun_sglang.topology import Autoscale, Topology


def read_scaling(topology: Topology) -> tuple[PoolScaling, ...]:
    """Return the pools of a topology that size themselves, with their costs.

    Raises:
        CostError: a cost file cannot be read.
        SloError: no number of workers meets an SLO.
    """
    return tuple(_read(topology, i, settings) for i, settings in enumerate(topology.autoscale))


def bounds_of(settings: Autoscale) -> Bounds:
    """Return the settings of the policy for a pool."""
    return Bounds(
        least=settings.min,
        most=settings.max,
        target=Target(tpot=settings.slo.tpot, share=settings.share, load=settings.load),
        window=settings.window,
        hold=settings.hold,
        boot=settings.boot,
    )


def cost_estimate(scaling: PoolScaling) -> CorrectedCost | LearnedCost:
    """Return what estimates the step cost of a pool's workers, before any step was measured."""
    return LearnedCost() if scaling.costs is None else CorrectedCost(step_cost(scaling.costs))


def _read(topology: Topology, place: int, settings: Autoscale) -> PoolScaling:
    if settings.costs is not None:
        costs: CostModel | None = load_costs(Path(settings.costs))
    elif topology.backend_of(settings.pool) == "emulated":
        path = topology.emulation_of(settings.pool).costs
        costs = CostModel() if path is None else load_costs(Path(path))
    else:
        costs = None
    if costs is not None:
        require_feasible(step_cost(costs), settings.slo.tpot, f"autoscale.{place}.slo.tpot")
    return PoolScaling(settings=settings, costs=costs)
