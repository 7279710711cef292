"""The number of decode workers that an offered load needs. Pure.

A worker of K equal ones that share a pool gets 1/K of the demand: R / K output tokens and L / K tokens of context a
second. Let a step take T = a + c B + k C seconds, with B requests and C tokens of context in the batch. Each request
gets one token a step, so an answer of n tokens stays n T seconds; by Little's law the mean of B is R T / K, and that of
C is L T / K. Hence a mean step takes

    T = a / (1 - (c R + k L) / K),

and it stays within the SLO if K >= (c R + k L) / (1 - a / SLO).

The requests in the pool vary around their mean. With Poisson arrivals they are a Poisson number, so the variance of
the sum X of c B + k C over all workers is T V, where V is the sum of (c + k x)^2 over the output tokens of a second,
each with its context x. The router shares X evenly. So a share q of the steps keeps the SLO where the mean plus z
standard deviations does (z: the q-quantile of the normal distribution; at T = SLO, where both are largest):

    K >= (SLO m + z sqrt(SLO V)) / (SLO - a), with m = c R + k L.

A small pool needs more room than a large one: this is the square-root staffing rule of queues (Halfin and Whitt, 1981).
What varies more slowly than a batch, the demand itself within the window, gets the rest of `load`: m / load takes the
place of m.

The KV of the requests must fit too: C = L T / K <= load * kv_tokens, with T at the SLO at most.

Assumptions: any worker can serve any task of the pool, and the router spreads requests evenly by tokens; the cost of a
step is linear in its batch; the mean demand changes slowly against the duration of an answer; prompts are prefilled
elsewhere. Tokens that are resident are no measure of demand: in an overload they grow without bound.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.step_cost import StepCost
from sun_sglang.errors import UserError


class SloError(UserError):
    """No number of workers meets the SLO."""


class Target(NamedTuple):
    """What a pool should keep, and how much room it plans for.

    Attributes:
        tpot: the SLO: seconds of an output token.
        share: the share of the steps that should keep it.
        load: the share of a worker's capacity that the mean demand may take; the rest is for demand that varies within
            the window over which it is measured.
    """

    tpot: float
    share: float = 0.95
    load: float = 0.95


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


def workers_needed(demand: Demand, cost: StepCost, target: Target) -> Need:
    """Return the number of workers that a demand needs, as a fraction.

    Args:
        demand: the work offered a second.
        cost: of a step of one worker.
        target: what the pool should keep.
    """
    slo, room = target.tpot, target.tpot - cost.base
    memory = demand.context_tokens * slo / (target.load * cost.kv_tokens)
    if room <= 0:
        return Need(math.inf if demand.tokens else 0.0, memory)
    mean = slo * _work(demand, cost) / target.load
    c, k = cost.per_request, cost.per_context_token
    squares = c * c * demand.tokens + 2 * c * k * demand.context_tokens + k * k * demand.context_squares
    return Need((mean + _quantile(target.share) * math.sqrt(slo * squares)) / room, memory)


def step_seconds(demand: Demand, cost: StepCost, workers: float) -> float:
    """Return the duration of a step that a demand leads to on so many workers; infinite where they cannot carry it."""
    work = _work(demand, cost) / workers
    return cost.base / (1 - work) if work < 1 else float("inf")


def _work(demand: Demand, cost: StepCost) -> float:
    """Return the seconds that a second's demand adds to empty steps, on one worker."""
    return cost.per_request * demand.tokens + cost.per_context_token * demand.context_tokens


@cache
def _quantile(share: float) -> float:
    return max(0.0, NormalDist().inv_cdf(share))
