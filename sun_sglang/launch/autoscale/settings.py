"""The settings of the policy, from the topology."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.autoscaling.policy import Bounds
from sun_sglang.autoscaling.sizing import Target, require_feasible
from sun_sglang.autoscaling.step_cost import CorrectedCost, LearnedCost, step_cost
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.plan import PoolScaling
from sun_sglang.sim.cost_model import CostError, load_costs
from sun_sglang.topology import Autoscale, Topology


def read_scaling(topology: Topology) -> tuple[PoolScaling, ...]:
    """Return the pools of a topology that size themselves, with their costs.

    Raises:
        CostError: a cost file cannot be read.
        TopologyError: a pool has costs by which no load needs a worker.
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
    where = f"autoscale.{place}"
    path = settings.costs
    if path is None and topology.backend_of(settings.pool) == "emulated":
        path = topology.emulation_of(settings.pool).costs
        if path is None:
            problem = f"is required: the emulated workers of `{settings.pool}` have no `costs`, so no load takes time"
            raise TopologyError(f"{where}.costs", problem, "give a cost file here, or to `emulated`")
    if path is None:
        return PoolScaling(settings=settings)
    try:
        costs = load_costs(Path(path))
    except CostError as e:
        raise CostError(f"{where}.costs: {e}") from e
    cost = step_cost(costs)
    if not cost.seconds(1, 1):
        problem = f"in {path} a decode step takes no time, so no load needs a second worker"
        raise TopologyError(f"{where}.costs", problem, "set `decode_step` and `decode_per_context_token` there")
    require_feasible(cost, settings.slo.tpot, f"{where}.slo.tpot")
    return PoolScaling(settings=settings, costs=costs)
