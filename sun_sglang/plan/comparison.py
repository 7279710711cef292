"""The serving systems that a plan compares, built from the tasks of a topology."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sun_sglang.plan.outcome import Outcome, PlanError
from sun_sglang.plan.sizing import Load, Sized, require_feasible, size
from sun_sglang.plan.system import Admission, PlannedPool, PlannedTask, System, arranged
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.strict import listed
from sun_sglang.topology import Role, Topology

SHARES: Final[Mapping[str, frozenset[Role]]] = {
    "sun": frozenset({"decode"}),
    "qsun": frozenset({"decode"}),
    "isolated": frozenset(),
    "prefillshare": frozenset({"prefill"}),
}
"""The roles whose pool all tasks share, by system."""


@dataclass(frozen=True)
class Costs:
    """The cost models of a plan.

    Attributes:
        full: of workers in full precision.
        quantized: of decode workers with 4-bit weights; None where they are not known.
        gpus: GPUs of a worker.
        source: where they are from, for people.
    """

    full: CostModel
    quantized: CostModel | None
    gpus: int = 1
    source: str = ""


@dataclass(frozen=True)
class Planned:
    """The result for one system.

    Attributes:
        system: its name.
        sized: the fewest workers.
    """

    system: str
    sized: Sized

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Return the result as JSON, with times in milliseconds.

        Args:
            seconds: length of the load.
        """
        best, less = self.sized.best, self.sized.less
        breaks = self.sized.breaks_first
        return {
            "system": self.system,
            "prefill_workers": best.system.workers("prefill"),
            "decode_workers": best.system.workers("decode"),
            "gpus": best.system.gpus,
            "gpu_hours": self.sized.gpu_hours(seconds),
            "decode_gpu_hours": sum(p.workers * p.gpus for p in best.system.pools.values() if p.role == "decode")
            * seconds
            / 3600,
            "pools": {name: pool.workers for name, pool in best.system.pools.items()},
            **_measured(best.outcome),
            "prefill_busy": max(best.busy.values()),
            "decode_memory": max(best.peak.values()),
            "retractions": best.retractions,
            "breaks_first": None if breaks is None else str(breaks),
            "with_fewer": None if less is None else {"pools": less.system.workers("decode"), **_measured(less.outcome)},
            "simulations": self.sized.simulations,
        }


def compare(
    topology: Topology,
    names: Sequence[str],
    costs: Costs,
    load: Load,
    *,
    most: int,
    note: Callable[[str], None] = lambda text: None,
) -> list[Planned]:
    """Return the fewest workers of each system.

    Args:
        topology: has the tasks, and the router's policies and limits.
        names: the systems, of `SHARES`.
        costs: the cost models.
        load: the load.
        most: most workers of a pool.
        note: receives what is tried.

    Raises:
        PlanError: a system is unknown or has no costs, or no number of workers meets the objectives.
    """
    systems = [build(topology, name, costs) for name in names]
    # before any work
    for system in systems:
        require_feasible(system, load)
    return [Planned(system.name, size(system, load, most=most, note=note)) for system in systems]


def build(topology: Topology, name: str, costs: Costs) -> System:
    """Return a system with one worker in each pool.

    Raises:
        PlanError: the system is unknown, or its costs are.
    """
    if name not in SHARES:
        raise PlanError(f"--systems: unknown system `{name}`; known: {listed(SHARES)}")
    decode = costs.quantized if name == "qsun" else costs.full
    if decode is None:
        raise PlanError("--systems: `qsun` needs --quantized-costs: the costs of decode workers with 4-bit weights")
    pools = PlannedPool("prefill", 1, costs.full, costs.gpus), PlannedPool("decode", 1, decode, costs.gpus)
    system = arranged(name, list(topology.tasks), *pools, shares=SHARES[name])
    router = topology.router
    admission = Admission(router.max_requests, router.max_tokens, router.queue_size, router.queue_timeout)
    tasks = tuple(_with_share(task, topology) for task in system.tasks)
    shape = topology.emulated
    kv_bytes = 4 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    return replace(system, tasks=tasks, policies=router.policy, admission=admission, kv_bytes=kv_bytes)


def _with_share(task: PlannedTask, topology: Topology) -> PlannedTask:
    known = topology.tasks[task.name]
    return replace(task, weight=known.weight, max_requests=known.max_requests, max_tokens=known.max_tokens)


def _measured(outcome: Outcome) -> dict[str, Any]:
    digests = {
        "time_to_first_token": outcome.ttft,
        "inter_token_latency": outcome.tpot,
        "request_latency": outcome.latency,
    }
    return {
        "requests": outcome.all.requests,
        "within_slo": outcome.all.ratio,
        "causes": {str(cause): count for cause, count in outcome.causes.most_common()},
        **{
            name: {f"p{percent}": _milliseconds(digest.percentile(percent)) for percent in (50, 95, 99)}
            for name, digest in digests.items()
        },
    }


def _milliseconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(1000 * seconds, 4)
