"""The expected work of an answer, estimated from earlier answers of its task."""

from __future__ import annotations

from collections.abc import Sequence

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

    def costs(self, request: Request, singles: Sequence[SingleRequest]) -> list[Cost]:
        """Return the expected work of an answer to each prompt, in tokens."""
        expected, longest = self.expected(request.task), self._longest(request.task)
        return [estimate_cost(request.endpoint, single.body, expected, longest) for single in singles[:: request.n]]

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
