"""A cost model corrected by one measured point: a result of `sun bench`."""

from __future__ import annotations

from dataclasses import dataclass

from sun_sglang.autoscaling.step_cost import step_cost
from sun_sglang.sim.cost_model import CostModel


@dataclass(frozen=True)
class MeasuredPoint:
    """Decode steps that a benchmark measured.

    Attributes:
        file: name of the result.
        tpot: mean seconds of a step.
        requests: mean requests in the batch of a decode worker.
        context: mean tokens of their context, each.
        ttft: median seconds to the first token; None where requests waited for others.
        prompt: mean tokens of a prompt.
    """

    file: str
    tpot: float
    requests: float
    context: float
    ttft: float | None
    prompt: float


@dataclass(frozen=True)
class Corrected:
    """A corrected cost model.

    Attributes:
        costs: the cost model.
        factor: by which decode steps were corrected.
        prefill: by which prefill was corrected; 1 where it was not measured alone.
        point: what was measured.
    """

    costs: CostModel
    factor: float
    prefill: float
    point: MeasuredPoint

    def describe(self) -> str:
        """Return the correction as text."""
        return f"decode steps x {self.factor:.3f} and prefill x {self.prefill:.3f} by {self.point.file}"


def calibrated(costs: CostModel, point: MeasuredPoint) -> Corrected:
    """Return a cost model whose decode step, and prefill where it was measured alone, is as long as measured."""
    factor = point.tpot / step_cost(costs).seconds(point.requests, point.requests * point.context)
    prefill = 1.0
    alone = costs.prefill_seconds([round(point.prompt)])
    if point.ttft is not None and alone > 0:
        prefill = point.ttft / alone
    scaled = {
        name: getattr(costs, name) * (factor if name.startswith("decode") else prefill)
        for name in CostModel.model_fields
        if name.startswith(("decode", "prefill"))
    }
    return Corrected(costs.model_copy(update=scaled), factor, prefill, point)
