"""Costs of the two simulated systems, fitted to measured runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sun_sglang.bench.adapters.simulated_load import Load, Outcome, simulate
from sun_sglang.bench.adapters.simulated_systems import SimulatedSystem
from sun_sglang.sim.cost_model import CostModel

Build = Callable[[CostModel, Load], SimulatedSystem]
"""Returns a new system with these costs for this load."""

_FLOOR_S = 1e-6
_STEP = 0.05
_REQUESTS = 120


class Measured(NamedTuple):
    """What a system did under a load: medians over the repetitions."""

    load: Load
    outcome: Outcome


def fit_costs(build: Build, start: Mapping[str, float], measured: Sequence[Measured]) -> CostModel:
    """Return the costs with which a system comes nearest to its measured runs.

    Least squares over the logarithms of throughput, gap and TTFT: each counts by its relative error. The costs are
    searched as logarithms, so none becomes negative.

    Args:
        build: makes the system.
        start: the fitted keys of the cost model, with a first guess for each, in seconds.
        measured: the runs.
    """
    from scipy.optimize import least_squares

    names = list(start)

    def costs(logs: Sequence[float]) -> CostModel:
        return CostModel.model_validate({name: math.exp(log) for name, log in zip(names, logs, strict=True)})

    def errors(logs: Sequence[float]) -> list[float]:
        tried = costs(logs)
        return [
            error
            for point in measured
            for error in relative_errors(simulate(build(tried, point.load), point.load, requests=_REQUESTS), point)
        ]

    guess = [math.log(max(value, _FLOOR_S)) for value in start.values()]
    # a simulation is not smooth in its costs: small differences would measure that and no slope
    found = least_squares(errors, guess, diff_step=_STEP, max_nfev=40)
    return costs([float(log) for log in found.x])


def relative_errors(simulated: Outcome, point: Measured) -> tuple[float, float, float]:
    """Return the logarithms of simulated by measured throughput, gap and TTFT."""
    seen = point.outcome
    return (
        math.log(simulated.tokens_per_s / seen.tokens_per_s),
        math.log(simulated.gap_ms / seen.gap_ms),
        math.log(simulated.ttft_ms / seen.ttft_ms),
    )
