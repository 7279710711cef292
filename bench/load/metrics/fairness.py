"""Jain's index of fairness."""

from __future__ import annotations

from collections.abc import Sequence


def jain_index(shares: Sequence[float]) -> float | None:
    """Return `(sum x)^2 / (n * sum x^2)`: 1 where all shares are equal, 1/n where one has everything.

    Args:
        shares: of each task, what it got of what it asked for; not negative.

    Returns:
        None without shares, and where all are 0.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None
