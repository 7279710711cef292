from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.figures.serving.prefillshare_figures import HitsOverSessions, LatencyOverRate, best_limits, most
from sun_sglang.bench.serving.result import BenchResult, write_result
from tests.support.bench_results import result

SYSTEMS = ("prefillshare", "isolated")


def measured(workload: str, **axes: Any) -> BenchResult:
    return result(SYSTEMS, zipf=(0.0,), workload=workload, repetitions=2, **axes)


def save(content: BenchResult, results: Path, name: str) -> None:
    file = results / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    write_result(content, file)


def pattern_of(name: str) -> str:
    return "reflexion" if "reflexion" in name else "react"


def test_best_limit_of_a_system_is_the_one_with_the_most_tokens_at_each_rate() -> None:
    found = measured("react", request_rate=(1.0, 4.0), concurrency=(20, 40))
    # the made-up throughput depends on the rate alone: one limit gets more
    for point in found.points:
        if point.values["concurrency"] == 40:
            at = point.systems["isolated"]
            more = at.summary["output_token_throughput"].model_copy(update={"value": 1e6})
            point.systems["isolated"] = at.model_copy(
                update={"summary": {**at.summary, "output_token_throughput": more}}
            )
    assert {rate: one.point.values["concurrency"] for rate, one in best_limits([found], "isolated").items()} == {
        1.0: 40,
        4.0: 40,
    }
    assert {one.point.values["concurrency"] for one in best_limits([found], "prefillshare").values()} == {20}


def test_latency_over_rate_has_both_systems_at_each_rate_and_the_paper_beside_them(tmp_path: Path) -> None:
    figure = LatencyOverRate()
    for name in figure.needs:
        save(measured(pattern_of(name), request_rate=(1.0, 4.0), concurrency=(20, 40)), tmp_path, name)
    text = figure.draw(tmp_path, tmp_path).read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| 1 |", "| 4 |"))]
    assert [row.split(" | ")[1] for row in rows] == ["PrefillShare 4P/4D", "4x(1P/1D)"] * 2 * len(figure.tables)
    assert "the paper: up to 3.9x lower p95 latency and 3.6x the throughput." in text
    assert "the paper: up to 4.5x lower p95 latency and 3.9x the throughput." in text
    assert "89.0 %" in rows[0]
    assert text.count("- x86_64, 2 cores") == len(figure.needs)


def test_most_is_over_the_rates_that_both_systems_have() -> None:
    found = measured("react", request_rate=(1.0, 4.0), concurrency=(20, 40))
    largest = most([found])
    assert largest is not None
    assert largest.throughput > 1
    for point in found.points:
        point.systems["isolated"] = point.systems["isolated"].model_copy(update={"summary": {}})
    assert most([found]) is None


def test_hits_over_sessions_has_a_row_for_each_limit_in_order(tmp_path: Path) -> None:
    figure = HitsOverSessions()
    content = measured("react", request_rate=(4.0,), concurrency=(80, 10, 40))
    save(content, tmp_path, figure.needs[0])
    text = figure.draw(tmp_path, tmp_path).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split(" | ")[0] for row in rows] == ["| 10", "| 40", "| 80"]
    assert all("89.0 %" in row for row in rows)
    assert "peaks at 60 % near 40 sessions" in text


def test_hits_over_sessions_has_a_third_system_where_it_was_measured(tmp_path: Path) -> None:
    figure = HitsOverSessions()
    axes: dict[str, Any] = {"zipf": (0.0,), "request_rate": (4.0,), "concurrency": (110, 180), "workload": "react"}
    content = result((*SYSTEMS, "admission"), repetitions=1, **axes)
    save(content, tmp_path, figure.needs[0])
    text = figure.draw(tmp_path, tmp_path).read_text()
    assert "PrefillShare, admission by KV: from the cache" in text


@pytest.mark.parametrize("figure", [LatencyOverRate(), HitsOverSessions()])
def test_figure_is_the_same_each_time(figure: Any, tmp_path: Path) -> None:
    for name in figure.needs:
        axes: dict[str, Any] = {"request_rate": (4.0,), "concurrency": (10, 20)}
        save(measured(pattern_of(name), **axes), tmp_path, name)
    first = figure.draw(tmp_path, tmp_path).read_text()
    assert figure.draw(tmp_path, tmp_path).read_text() == first
