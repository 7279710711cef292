"""The number of decode workers that an offered load needs. Pure.

A worker of K equal ones that share a pool gets 1/K of the demand: r = R / K output tokens and l = L / K tokens of
context a second. Let a step take T = a + c B + k C seconds, with B requests in the batch and C tokens of context. Each
request gets one token a step, so an answer of n tokens stays n T seconds; by Little's law B = r T and C = l T. Hence

    T = a / (1 - (c R + k L) / K),

and T stays at or below the SLO if and only if K >= (c R + k L) / (1 - a / SLO). Only the share `load` of this capacity
is planned for, since demand varies within a window: K >= (c R + k L) / (load (1 - a / SLO)).

The KV of the requests must fit too: C = L T / K <= load * kv_tokens, with T at the SLO at most.

Assumptions: any worker can serve any task of the pool, and the router spreads requests evenly by tokens; the cost of a
step is linear in its batch; the mean demand changes slowly against the duration of an answer; prompts are prefilled
elsewhere. Tokens that are resident are no measure of demand: in an overload they grow without bound.
"""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.step_cost import StepCost
from sun_sglang.errors import UserError


class SloError(UserError):
    """No number of workers meets the SLO."""


class Need(NamedTuple):
    """The number of workers that a demand needs.

    Attributes:
        steps: so that a step takes no longer than the SLO; infinite where no number is enough.
        memory: so that the KV fits.
    """

    steps: float
    memory: float

    @property
    def workers(self) -> float:
        """The larger number."""
        return max(self.steps, self.memory)


def require_feasible(cost: StepCost, tpot: float, where: str = "slo.tpot") -> None:
    """Raise where no number of workers meets an SLO.

    Args:
        cost: of a step of one worker.
        tpot: the SLO: seconds of an output token.
        where: the place of the SLO, for the error.

    Raises:
        SloError: a step with one request and no context takes longer.
    """
    least = cost.seconds(1, 0)
    if least >= tpot:
        raise SloError(
            f"{where}: no number of workers meets {1000 * tpot:g} ms: a step with one request alone takes "
            f"{1000 * least:.1f} ms; give a longer time"
        )


def workers_needed(demand: Demand, cost: StepCost, tpot: float, load: float) -> Need:
    """Return the number of workers that a demand needs, as a fraction.

    Args:
        demand: the work offered a second.
        cost: of a step of one worker.
        tpot: the SLO: seconds of an output token.
        load: the share of the capacity at the SLO that is planned for.
    """
    work = cost.per_request * demand.tokens + cost.per_context_token * demand.context_tokens
    spare = 1 - cost.base / tpot
    steps = work / (load * spare) if spare > 0 else float("inf") if demand.tokens else 0.0
    return Need(steps, demand.context_tokens * tpot / (load * cost.kv_tokens))


def step_seconds(demand: Demand, cost: StepCost, workers: float) -> float:
    """Return the duration of a step that a demand leads to on so many workers; infinite where they cannot carry it."""
    work = (cost.per_request * demand.tokens + cost.per_context_token * demand.context_tokens) / workers
    return cost.base / (1 - work) if work < 1 else float("inf")
