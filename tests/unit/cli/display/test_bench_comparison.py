from __future__ import annotations

from typing import Any

from rich.console import Console

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.summary import Workers
from sun_sglang.bench.serving.campaign.record import Record
from sun_sglang.bench.serving.result import BenchResult, SearchReport, SearchStep
from sun_sglang.cli.display.bench_comparison import render_result
from tests.support.bench_campaign import FakeSystem, finished_run, record_of, settings


def record(*names: str, **values: Any) -> Record:
    found = record_of(settings(**values), [FakeSystem(name, "", []) for name in names])
    for name in names:
        found.note_workers(name, Workers(5, 1 if name == "sun.yaml" else 4))
    return found


def rows(result: BenchResult, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(render_result(result))
    text = captured.get()
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    return [" ".join(line.split()) for line in text.splitlines()]


def test_comparison_shows_medians_with_their_range_and_paired_ratios_in_80_columns() -> None:
    found = record("sun.yaml", "isolated.yaml", num_profile_runs=3, concurrency=8)
    for repetition in range(3):
        found.add(0, "sun.yaml", finished_run(repetition, 100 + 10 * repetition))
        found.add(0, "isolated.yaml", finished_run(repetition, 50 + 5 * repetition))
    shown = rows(found.result)
    assert "output tokens/s 11.0 (10.0-12.0) 5.5 (5-6) 2.00x [2.00, 2.00]" in shown
    assert "TTFT p50, ms 500 (500-500) 500 (500-500) 1.00x [1.00, 1.00]" in shown
    assert any(row.startswith("sun.yaml generates 2.00x [2.00, 2.00] the tokens of isolated.yaml") for row in shown)
    head = " ".join(shown[:3])
    assert "sun.yaml (5 workers, 1 decode), isolated.yaml (5 workers, 4 decode): 2 tasks" in head
    assert "medians of up to 3 repetitions" in head


def test_comparison_grid_has_a_row_for_each_system_at_each_point() -> None:
    found = record("sun.yaml", "isolated.yaml", concurrency=2, sweep={"zipf": (0.0, 1.5), "concurrency": (2, 8)})
    for point in range(4):
        found.add(point, "sun.yaml", finished_run(0, 20 * (point + 1)))
    found.add(3, "isolated.yaml", finished_run(0, 40))
    shown = rows(found.result)
    assert "0.0 2 sun.yaml 2 500" in shown
    assert "1.5 8 sun.yaml 8 500" in shown
    assert "isolated.yaml 4 500 2.00x" in shown
    assert sum(row.startswith("isolated.yaml") for row in shown) == 4


def test_comparison_of_searches_states_the_traffic_in_a_sentence() -> None:
    found = record("sun.yaml", "isolated.yaml", request_rate=1.0, find_max_rate=True, goodput={"request_latency": 9.0})
    for name, rate in (("sun.yaml", 8.0), ("isolated.yaml", 3.2)):
        steps = (SearchStep(request_rate=rate, within=True, run=finished_run(0, 3)),) * 7
        search = SearchReport(repetition=0, max_rate=rate, failed_rate=rate * 1.04, complete=True, steps=steps)
        found.add(0, name, search)
    shown = rows(found.result)
    assert "sun.yaml 8 7" in shown
    assert "isolated.yaml 3.2 7" in shown
    assert "sun.yaml carries 2.50x the traffic of isolated.yaml" in shown


def test_comparison_shows_a_system_that_was_not_measured_without_numbers() -> None:
    found = record("sun.yaml", "isolated.yaml", num_profile_runs=2, concurrency=8)
    found.add(0, "sun.yaml", finished_run(0, 100))
    found.fail("isolated.yaml", "no weights")
    assert "output tokens/s 10.0" in rows(found.result)


def test_comparison_marks_what_was_cut_short_and_states_a_note_of_many_runs_once() -> None:
    found = record("sun.yaml", "isolated.yaml", num_profile_runs=2, concurrency=8)
    for repetition in range(2):
        run = finished_run(repetition, 100).model_copy(update={"notes": ("5 of 9 requests failed",)})
        found.add(0, "sun.yaml", run)
    found.add(0, "isolated.yaml", finished_run(0, 50, ending=Ending.CUT_SHORT))
    shown = rows(found.result)
    assert "note: isolated.yaml: cut short after 10.0 s of its window" in shown
    assert shown.count("note: sun.yaml: 5 of 9 requests failed") == 1
