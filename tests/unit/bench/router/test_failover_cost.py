"""The comparison of both routers in the benchmark of failover."""

from __future__ import annotations

import pytest

from sun_sglang.bench.report import Run
from sun_sglang.bench.router.failover_cost import added_cpu
from sun_sglang.bench.router.null_worker import chat_event


def test_added_cpu_is_the_median_over_pairs_and_no_ratio_of_medians() -> None:
    costs = {"off": [10.0, 20.0, 40.0], "on": [11.0, 24.0, 42.0]}
    runs = [
        Run(case={"failover": state, "path": path}, repetition=i, values={"cpu_us_per_chunk": cost})
        for path, factor in (("/generate", 1.0), ("/other", 9.0))
        for state, each in costs.items()
        for i, cost in enumerate(cost * factor for cost in each)
    ]
    assert added_cpu(runs, "/generate") == pytest.approx(0.1)


def test_chat_events_of_the_null_worker_are_a_piece_of_content_and_an_end() -> None:
    assert b'"content":" text so far,"' in chat_event("r", ended=False)
    assert b'"finish_reason":"length"' in chat_event("r", ended=True)
