"""Statistics of the speed benchmark."""

from __future__ import annotations

from sun_sglang.bench.router.speed import percentile


def test_percentiles() -> None:
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile(list(range(101)), 99) == 99
