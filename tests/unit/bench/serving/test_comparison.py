from __future__ import annotations

from dataclasses import replace

import pytest

from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.sessions import summarise_sessions
from sun_sglang.bench.load.workload.agents.workflow import REACT
from sun_sglang.bench.serving.comparison import MAX_RATE, METRICS, metric_of, ratios_of, summarise_repetitions
from sun_sglang.bench.serving.result import SearchReport, SystemPoint
from tests.support.bench_campaign import WINDOW, finished_run


def test_metric_every_summarised_one_is_a_number_of_a_run_or_absent() -> None:
    found = {metric: metric_of(finished_run(0, 3), metric) for metric in METRICS}
    assert found["output_token_throughput"] == 0.3
    assert found["time_to_first_token.p99"] == 500
    assert found["inter_token_latency.p50"] is None
    assert found["fairness"] is None


def test_metric_of_sessions_is_a_number_of_the_run_and_absent_without_sessions() -> None:
    run = finished_run(0, 3)
    assert metric_of(run, "sessions.session_latency.p95") is None
    assert metric_of(run, "achieved_ratio") == 1
    first, second = (
        RequestRecord(0, "a", 1, 0.0, 1.0, session=0),
        RequestRecord(1, "a", 1, None, 2.0, session=0),
    )
    flow = replace(REACT, agents=1, turns=2)
    for record, ended in ((first, 2.0), (second, 4.0)):
        record.first = record.last = record.ended = ended
    found = run.model_copy(update={"sessions": summarise_sessions([first, second], WINDOW, flow, due=[0.0, 1.0])})
    assert metric_of(found, "sessions.session_latency.p95") == 3000
    assert metric_of(found, "sessions.scheduled_session_latency.avg") == 4000
    assert metric_of(found, "sessions.session_throughput") == 0.1
    assert metric_of(found, "achieved_ratio") == 0.5
    assert summarise_repetitions([found], [])["sessions.session_latency.p50"].value == 3000


def test_summary_has_median_and_range_of_the_valid_runs_alone() -> None:
    runs = [
        finished_run(0, 10),
        finished_run(1, 50),
        finished_run(2, 20),
        finished_run(3, 900, valid=False),
        finished_run(4, 1, ending=Ending.CUT_SHORT),
    ]
    found = summarise_repetitions(runs, [])["request_throughput"]
    assert (found.value, found.min, found.max, found.repetitions) == (2, 1, 5, 3)
    assert "inter_token_latency.p50" not in summarise_repetitions(runs, [])


def test_summary_has_a_run_that_was_cut_short_where_there_is_no_other() -> None:
    assert summarise_repetitions([finished_run(0, 10, ending=Ending.CUT_SHORT)], [])["request_throughput"].value == 1
    assert summarise_repetitions([finished_run(0, 10, valid=False)], []) == {}


def test_ratios_pair_the_repetitions_that_both_systems_have() -> None:
    first = SystemPoint(runs=(finished_run(0, 10), finished_run(1, 40), finished_run(2, 90)))
    other = SystemPoint(runs=(finished_run(1, 20), finished_run(2, 30), finished_run(3, 1)))
    found = ratios_of(first, other)["request_throughput"]
    assert (found.value, found.repetitions) == (pytest.approx(6.5 / 2.5), 2)
    assert 2 <= found.low < found.value < found.high <= 3


def test_ratios_have_no_metric_that_is_zero_or_absent_in_the_other() -> None:
    assert ratios_of(SystemPoint(runs=(finished_run(0, 1),)), SystemPoint(runs=(finished_run(0, 0),))) == {}
    assert ratios_of(SystemPoint(runs=(finished_run(0, 1),)), SystemPoint()) == {}


def search(repetition: int, max_rate: float | None, *, complete: bool = True) -> SearchReport:
    return SearchReport(repetition=repetition, max_rate=max_rate, failed_rate=None, complete=complete, steps=())


def test_summary_and_ratios_have_the_highest_rates_of_complete_searches() -> None:
    first = SystemPoint(searches=(search(0, 8.0), search(1, 6.0), search(2, 1.0, complete=False)))
    other = SystemPoint(searches=(search(0, 2.0), search(1, 2.0), search(2, 2.0)))
    assert summarise_repetitions((), first.searches)[MAX_RATE].value == 7
    assert ratios_of(first, other)[MAX_RATE].value == 3.5
    assert ratios_of(first, SystemPoint(searches=(search(0, None),))) == {}
