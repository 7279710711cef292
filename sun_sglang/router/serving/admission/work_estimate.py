"""The expected work of an answer, estimated from earlier answers of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.router.protocol.fan_out import SingleRequest
from sun_sglang.router.protocol.request import Request
from sun_sglang.router.protocol.worker_replies import TokenCounts
from sun_sglang.router.scheduling.cost import Cost, OutputLengths, estimate_cost
from sun_sglang.router.workers.registry import Registry


class WorkEstimate:
    """Estimates the work of answers from the lengths of answers that have ended."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lengths = OutputLengths()
        self._offered: dict[str, Demand] = {}

    @property
    def offered(self) -> Mapping[str, Demand]:
        """The decode work that arrived so far, by decode pool: that of refused requests too, and each request once."""
        return MappingProxyType(self._offered)

    def costs(self, request: Request, singles: Sequence[SingleRequest]) -> list[Cost]:
        """Return the expected work of an answer to each prompt, in tokens."""
        expected, longest = self.expected(request.task), self._longest(request.task)
        return [estimate_cost(request.endpoint, single.body, expected, longest) for single in singles[:: request.n]]

    def offer(self, request: Request, pool: str, costs: Sequence[Cost]) -> None:
        """Count the decode work of a request that has arrived.

        Args:
            request: the request.
            pool: its decode pool.
            costs: the expected work of an answer to each of its prompts.
        """
        total = self._offered.get(pool, Demand())
        for cost in costs:
            total = total.plus(self._lengths.demand(request.task, cost).times(request.n))
        self._offered[pool] = total

    def expected(self, task: str) -> int:
        """Return the expected length of an answer without a limit of the client's, in tokens."""
        return self._lengths.expected(task)

    def learn(self, task: str, answers: int, counts: TokenCounts) -> None:
        """Record the lengths of the answers of a request that ended.

        Args:
            task: its task.
            answers: how many it had.
            counts: tokens of all of them.
        """
        made, longest = counts.completion // answers, self._longest(task)
        # one false report must not price the task's next thousand answers
        self._lengths.record(task, made if longest is None else min(made, longest))

    def _longest(self, task: str) -> int | None:
        """Return the tokens of the longest answer that the task's workers can make; None if that is not known."""
        limit = self._registry.limit(task)
        return limit.tokens + 1 if limit else None
