"""Which task a request has: rank Zipf over the tasks, `P(i) ~ i^-alpha`, and a ranking that moves on.

Rank 1 is the task that is named first. Zipf here is the distribution over a finite number of ranks, with every exponent
from 0 (uniform) on; it is neither the zeta distribution, which has no last rank, nor a geometric distribution.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate


def zipf_probabilities(tasks: int, alpha: float) -> list[float]:
    """Return the probability of each rank, hottest first."""
    weights = [float(rank) ** -alpha for rank in range(1, tasks + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


class Popularity:
    """The task of a request.

    Args:
        tasks: number of tasks.
        alpha: exponent; 0 is uniform.
        shift_every: seconds after which every rank moves on to the next task; None leaves the ranking as it is.
    """

    def __init__(self, tasks: int, alpha: float, shift_every: float | None = None) -> None:
        self._alpha = alpha
        self._shift_every = shift_every
        self._probabilities = zipf_probabilities(tasks, alpha)
        self._bounds = list(accumulate(self._probabilities))

    def task(self, draw: float, elapsed: float) -> int:
        """Return the position of the task.

        Args:
            draw: uniform in [0, 1).
            elapsed: seconds after the start of the run at which the request is due.
        """
        tasks = len(self._bounds)
        # the last bound can be a bit below 1, and a draw between the two belongs to the last rank
        rank = bisect_right(self._bounds, draw, hi=tasks - 1)
        return (rank + self._shifts(elapsed)) % tasks

    def probabilities(self, elapsed: float) -> list[float]:
        """Return the probability of each task, in the order of the tasks, at a moment of the run."""
        shifts = self._shifts(elapsed) % len(self._probabilities)
        return self._probabilities[-shifts:] + self._probabilities[:-shifts] if shifts else list(self._probabilities)

    def describe(self) -> dict[str, float | None]:
        """Return the parameters, as JSON."""
        return {"zipf": self._alpha, "hot_shift": self._shift_every}

    def _shifts(self, elapsed: float) -> int:
        return math.floor(elapsed / self._shift_every) if self._shift_every else 0
