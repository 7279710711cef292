"""Whether counts are those of a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence


def assert_counts_match(counts: Sequence[int], probabilities: Sequence[float]) -> None:
    """Assert that chi-square lies below a bound that counts of the distribution exceed less than once in 100,000 cases.

    Outcomes that are expected fewer than five times count together, for which chi-square holds.

    Args:
        counts: how often each outcome was drawn.
        probabilities: the exact probability of each outcome.
    """
    total = sum(counts)
    assert all(p > 0 or not n for n, p in zip(counts, probabilities, strict=True)), "an impossible outcome was drawn"
    means = [total * p for p in probabilities]
    cells = [(n, mean) for n, mean in zip(counts, means, strict=True) if mean >= 5]
    rare = [(n, mean) for n, mean in zip(counts, means, strict=True) if mean < 5]
    cells.append((sum(n for n, _ in rare), sum(mean for _, mean in rare)))
    value = sum((n - mean) ** 2 / max(mean, 1) for n, mean in cells)
    freedom = len(cells) - 1
    # Laurent and Massart 2000: P(value > freedom + 2 sqrt(freedom x) + 2 x) < exp(-x)
    x = math.log(100_000)
    assert value < freedom + 2 * math.sqrt(freedom * x) + 2 * x, (value, freedom, counts)
