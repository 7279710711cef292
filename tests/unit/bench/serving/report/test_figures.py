from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.serving.report.figures.achieved import achieved_by_offered
from sun_sglang.bench.serving.report.figures.figure import Panel
from sun_sglang.bench.serving.report.figures.max_rate import highest_rate
from sun_sglang.bench.serving.report.figures.over_axis import over_load, over_sessions, over_skew
from sun_sglang.bench.serving.report.figures.registry import FIGURES
from sun_sglang.bench.serving.report.figures.slices import MOST_ROWS, slices
from sun_sglang.bench.serving.report.figures.throughput import throughput_and_interactivity, trade_off
from sun_sglang.bench.serving.report.study.load import study_of
from sun_sglang.bench.serving.report.study.study import Source, Study
from tests.support.bench_results import result


def study(*systems: str, **axes: Any) -> Study:
    return study_of(
        [Source("a", result(systems or ("sun", "isolated"), repetitions=axes.pop("repetitions", 2), **axes))]
    )


def marks(panel: Panel) -> dict[str, list[float]]:
    return {series.label: [mark.x for mark in series.marks] for series in panel.series}


def test_slices_join_points_that_differ_in_the_axis_alone() -> None:
    found = slices(study(zipf=(3.0, 0.0), concurrency=(8, 2)).points, "zipf")
    assert [[point.zipf for point in one.points] for one in found] == [[0.0, 3.0], [0.0, 3.0]]
    assert [one.rest.concurrency for one in found] == [8, 2]
    assert slices(study(zipf=(0.0,), concurrency=(2, 8)).points, "zipf") == []


def test_slices_order_lengths_by_number() -> None:
    (found,) = slices(study(zipf=(0.0,), concurrency=(2,), osl=(1024, 64, 512)).points, "osl")
    assert [point.osl for point in found.points] == ["64", "512", "1024"]


def test_throughput_has_bars_in_groups_of_output_lengths_and_a_row_for_each_skew() -> None:
    found = throughput_and_interactivity(study(zipf=(0.0, 1.5), request_rate=(2.0,), osl=(256, 512)))
    assert [row.label for row in found.rows] == ["Zipf 0", "Zipf 1.5"]
    whole, decode, speed = found.rows[0].panels
    assert (whole.kind, decode.kind, speed.kind) == ("bars", "bars", "dots")
    assert marks(whole) == {"sun": [0, 1], "isolated": [0, 1]}
    assert whole.x.at == ((0, "256"), (1, "512"))
    assert [series.marks[0].value for series in decode.series] == pytest.approx(
        [whole.series[0].marks[0].value, whole.series[1].marks[0].value / 4]
    )


def test_throughput_of_one_point_has_one_group_without_label() -> None:
    found = throughput_and_interactivity(study("router", zipf=(1.5,), concurrency=(8,)))
    (row,) = found.rows
    assert row.label == ""
    assert marks(row.panels[0]) == {"router": [0]}


def test_throughput_has_each_point_in_one_group_of_the_first_setting_that_varies() -> None:
    react = {"zipf": (0.0,), "workload": "react", "repetitions": 1}
    files = [
        Source("rates", result(("sun",), request_rate=(1.0, 4.0), concurrency=(60,), **react)),
        Source("sessions", result(("sun",), request_rate=(4.0,), concurrency=(10, 20), **react)),
        Source("alone", result(("sun",), request_rate=(9.0,), concurrency=(99,), **react)),
    ]
    found = throughput_and_interactivity(study_of(files))
    assert [row.label for row in found.rows] == [
        "60 sessions in flight",
        "4 sessions/s",
        "9 sessions/s, at most 99 sessions in flight",
    ]
    assert [len(row.panels[0].x.at) for row in found.rows] == [2, 2, 1]


def test_throughput_over_skew_alone_is_grouped_by_it() -> None:
    (row,) = throughput_and_interactivity(study(zipf=(0.0, 1.5), concurrency=(8,))).rows
    assert row.panels[0].x.at == ((0, "0"), (1, "1.5"))


def test_throughput_has_no_panel_of_decode_workers_where_they_are_unknown() -> None:
    content = result(zipf=(0.0,), concurrency=(8,), repetitions=1)
    for found in content.points[0].systems.values():
        for metric in list(found.summary):
            if metric.endswith("_worker"):
                del found.summary[metric]
    figure = throughput_and_interactivity(study_of([Source("a", content)]))
    assert [panel.title for panel in figure.rows[0].panels] == [
        "Output tokens, all workers, tokens/s",
        "Interactivity, tokens/s per user",
    ]


def test_trade_off_connects_the_loads_of_a_system_in_their_order() -> None:
    found = trade_off(study("sun", zipf=(0.0,), concurrency=(32, 2, 8)))
    (series,) = found.rows[0].panels[0].series
    speeds, totals = [mark.x for mark in series.marks], [mark.value for mark in series.marks]
    assert speeds == sorted(speeds, reverse=True)
    assert totals == sorted(totals)


def test_skew_has_a_line_for_each_system_and_a_row_for_each_load() -> None:
    found = over_skew(study(zipf=(0.0, 1.5, 3.0), concurrency=(2, 8)))
    assert [row.label for row in found.rows] == ["2 requests in flight", "8 requests in flight"]
    assert marks(found.rows[0].panels[0]) == {"sun": [0.0, 1.5, 3.0], "isolated": [0.0, 1.5, 3.0]}


def test_load_has_tail_latency_throughput_and_first_token() -> None:
    found = over_load(study(zipf=(0.0,), request_rate=(1.0, 2.0, 32.0)))
    panels = found.rows[0].panels
    assert [panel.title.split(",")[0] for panel in panels] == [
        "Request latency",
        "Output tokens",
        "Time to first token",
    ]
    assert panels[0].x.label == "offered requests per second"
    assert panels[0].x.is_log


def test_load_of_agents_begins_with_the_latency_of_sessions() -> None:
    found = over_load(study(zipf=(0.0,), request_rate=(1.0, 2.0), workload="react"))
    panels = found.rows[0].panels
    assert [panel.title.split(",")[0] for panel in panels] == [
        "Session latency",
        "Request latency",
        "Output tokens",
        "Time to first token",
    ]
    assert panels[0].x.label == "offered sessions per second"


def test_load_axis_of_latencies_is_logarithmic_where_one_explodes() -> None:
    found = over_load(study(zipf=(3.0,), request_rate=(1.0, 16.0)))
    assert [panel.is_log for panel in found.rows[0].panels] == [True, False, True]
    assert found.rows[0].panels[2].title.endswith("(logarithmic)")


def test_sessions_have_hits_over_the_most_sessions() -> None:
    systems = ("prefillshare", "isolated")
    found = over_sessions(study(*systems, zipf=(0.0,), request_rate=(4.0,), concurrency=(10, 40), workload="react"))
    hits, throughput = found.rows[0].panels
    assert hits.x.label == "sessions in flight, at most"
    assert hits.series[0].marks[0].text.startswith("prefillshare, at most 10 sessions in flight: 89.0 %")
    assert throughput.title.startswith("Output tokens")


def test_achieved_has_a_grid_for_each_system_with_skew_and_rate() -> None:
    found = achieved_by_offered(study(zipf=(0.0, 3.0), request_rate=(1.0, 8.0)))
    (row,) = found.rows
    sun, isolated = row.grids
    assert sun.columns == ("1", "8")
    assert [name for name, _ in isolated.rows] == ["0", "3"]
    cell = isolated.rows[1][1][1]
    assert cell.share is not None
    assert 0 < cell.share < 0.5
    assert cell.short == pytest.approx(100 * (1 - cell.share), abs=0.1)
    assert sun.rows[0][1][0].text == "100.0 %"


def test_achieved_leaves_a_point_that_was_not_measured_without_a_number() -> None:
    content = result(zipf=(0.0, 3.0), request_rate=(1.0, 8.0), repetitions=1)
    content.points[3].systems.pop("isolated")
    found = achieved_by_offered(study_of([Source("a", content)]))
    assert found.rows[0].grids[1].rows[1][1][1].text == "not measured"


def test_highest_rate_has_bars_over_skew() -> None:
    found = highest_rate(study(zipf=(0.0, 1.5), concurrency=(8,), max_rate=True))
    assert marks(found.rows[0].panels[0]) == {"sun": [0, 1], "isolated": [0, 1]}


def test_marks_have_their_number_unit_and_interval_as_text() -> None:
    found = over_skew(study("sun", zipf=(0.0, 1.5), concurrency=(8,), repetitions=3))
    assert found.rows[0].panels[0].series[0].marks[0].text == "sun, Zipf 0: 40.0 tokens/s (38.8 to 41.2)"
    alone = over_skew(study("sun", zipf=(0.0, 1.5), concurrency=(8,), repetitions=1))
    assert alone.rows[0].panels[0].series[0].marks[0].text == "sun, Zipf 0: 38.8 tokens/s"


def test_figures_of_one_closed_loop_point_are_missing_with_a_reason_each() -> None:
    found = [make(study("router", zipf=(0.0,), concurrency=(8,))) for make in FIGURES]
    assert [figure.key for figure in found if not figure.missing] == ["throughput"]
    assert all("needs" in figure.missing and not figure.rows for figure in found if figure.missing)


def test_figures_without_a_valid_run_are_all_missing() -> None:
    content = result(zipf=(0.0, 1.5), request_rate=(1.0, 2.0), repetitions=1)
    for point in content.points:
        for name in point.systems:
            point.systems[name] = point.systems[name].model_copy(update={"summary": {}, "runs": ()})
    assert all(make(study_of([Source("a", content)])).missing for make in FIGURES)


def test_figures_of_a_large_grid_have_at_most_so_many_rows() -> None:
    found = over_skew(study("sun", zipf=(0.0, 1.5), concurrency=tuple(range(1, MOST_ROWS + 4)), repetitions=1))
    assert (len(found.rows), found.left_out) == (MOST_ROWS, 3)
