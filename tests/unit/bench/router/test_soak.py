"""The soak test's checks."""

from __future__ import annotations

from collections import Counter

from sun_sglang.bench.router.soak import SoakCounts, find_problems


def test_what_is_wrong_is_said() -> None:
    counts = SoakCounts(outcomes=Counter(ok=3, left=1), memory=[50.0] * 8)
    assert find_problems(counts, {"ok": 3, "disconnected": 1}, 600) == []
    assert find_problems(counts, {"ok": 4}, 600) == []
    assert find_problems(counts, {"ok": 3}, 600) == [], "it left before the router had its request"
    assert "4 requests were sent and the router counted 2" in find_problems(counts, {"ok": 2}, 600)
    assert "4 requests were sent and the router counted 5" in find_problems(counts, {"ok": 5}, 600)
    assert "3 answers came and the router counted 2" in find_problems(counts, {"ok": 2, "disconnected": 2}, 600)
    assert find_problems(SoakCounts(), {}, 600) == ["not one request was answered"]
    grown = SoakCounts(outcomes=Counter(ok=1), memory=[50.0, 50.0, 50.0, 50.0, 60.0, 60.0, 70.0, 70.0])
    assert find_problems(grown, {"ok": 1}, 600) == ["the router grew from 50.0 to 70.0 MiB"]
    assert find_problems(grown, {"ok": 1}, 10) == []
