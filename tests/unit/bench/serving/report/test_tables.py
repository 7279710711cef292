from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.serving.comparison import summarise_repetitions
from sun_sglang.bench.serving.report.headline import headline
from sun_sglang.bench.serving.report.study.load import study_of
from sun_sglang.bench.serving.report.study.quantities import number_text
from sun_sglang.bench.serving.report.study.study import Source, Study
from sun_sglang.bench.serving.report.tables import faults, origin
from sun_sglang.bench.serving.report.tables.comparison import at_point, every_point
from sun_sglang.bench.serving.report.tables.table import Table
from sun_sglang.bench.serving.report.tables.tasks import MOST_TASKS, tasks_at
from sun_sglang.bench.serving.report.tables.turns import turns_at
from sun_sglang.bench.serving.result import BenchResult, SearchReport, SearchStep, SystemPoint
from sun_sglang.bench.serving.run_report import ErrorReport
from tests.support.bench_results import metrics, result, run


def study(content: BenchResult) -> Study:
    return study_of([Source("a", content)])


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def with_runs(content: BenchResult, system: str, *runs: Any) -> BenchResult:
    """Replace the runs of a system at the first point."""
    content.points[0].systems[system] = SystemPoint(runs=runs, summary=summarise_repetitions(runs, ()))
    content.points[0].ratios.clear()
    return content


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (1, "1.00"),
        (9.996, "10.0"),
        (42.71, "42.7"),
        (99.96, "100"),
        (12345.6, "12,346"),
    ],
)
def test_number_has_three_significant_digits(value: float, text: str) -> None:
    assert number_text(value) == text


def test_comparison_has_a_ratio_of_the_first_system_beside_each_other_one() -> None:
    found = study(result(("sun", "isolated", "plain"), zipf=(0.0,), concurrency=(8,)))
    table = at_point(found, found.headline)
    assert table.columns == ("", "sun", "isolated", "sun / isolated", "plain", "sun / plain")
    first = table.rows[0]
    assert (first[0].text, first[0].detail) == ("Output tokens, all workers", "tokens/s")
    assert (first[1].text, first[1].detail) == ("40.0", "38.8 to 41.2")
    assert first[3].text.endswith("x")
    assert "Medians of 3 repetitions" in table.note


def test_comparison_of_one_repetition_has_no_intervals_and_says_so() -> None:
    found = study(result(zipf=(0.0,), concurrency=(8,), repetitions=1))
    table = at_point(found, found.headline)
    assert {cell.detail for row in table.rows for cell in row[1:]} == {""}
    assert "One repetition: no interval" in table.note


def test_comparison_without_a_valid_run_says_so() -> None:
    content = with_runs(
        result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun", run(metrics(1, 1, 1), problems=["late"])
    )
    found = study(content)
    assert at_point(found, found.headline).note == "No system has a valid run at this load."


def test_comparison_of_searches_counts_these() -> None:
    found = study(result(zipf=(0.0,), concurrency=(8,), repetitions=2, max_rate=True))
    content = found.sources[0].result
    for name, at in content.points[0].systems.items():
        summary = {"max_rate": at.summary["max_rate"]}
        content.points[0].systems[name] = at.model_copy(update={"runs": (), "summary": summary})
    found = study(content)
    assert "Medians of 2 repetitions" in at_point(found, found.headline).note
    assert texts(every_point(found))[0][-2] == "2"


def test_comparison_of_a_system_that_was_not_measured_has_dashes() -> None:
    content = result(zipf=(0.0,), concurrency=(8,))
    del content.points[0].systems["isolated"]
    content.points[0].ratios.clear()
    found = study(content)
    assert all(row[2:] == ["-", "-"] for row in texts(at_point(found, found.headline)))


def test_every_point_has_a_row_for_each_system_with_its_protocol() -> None:
    table = every_point(study(result(zipf=(0.0, 1.5), concurrency=(2, 8), repetitions=2)))
    assert len(table.rows) == 8
    assert texts(table)[1][:2] == ["Zipf 0, 2 requests in flight", "isolated"]
    assert texts(table)[1][-3:] == ["0", "2", "30 + 60 s"]
    assert table.columns[2:4] == ("Output tokens, all workers, tokens/s", "sun / this")


def test_every_point_of_agents_has_the_latency_of_sessions() -> None:
    content = result(zipf=(0.0,), request_rate=(1.0,), workload="react", repetitions=2)
    table, found = every_point(study(content)), study(content)
    assert "Session latency, p95, ms" in table.columns
    labels = [row[0].text for row in at_point(found, found.headline).rows]
    assert [label for label in labels if "ession" in label] == [
        "Started sessions",
        "Completed sessions",
        "Session latency, p50",
        "Session latency, p95",
    ]


def test_turns_have_a_row_for_each_system_and_hits() -> None:
    systems = ("prefillshare", "isolated")
    found = study(result(systems, zipf=(0.0,), request_rate=(1.0,), workload="react", repetitions=2))
    table = turns_at(found, found.headline)
    assert [row[:2] for row in texts(table)] == [[str(turn), label] for turn in (1, 2, 3) for label in systems]
    assert table.columns[3] == "from a cache"
    assert texts(table)[0][3] == "89.0 %"
    requests = study(result(zipf=(0.0,), concurrency=(8,)))
    assert turns_at(requests, requests.headline).rows == ()


def test_every_point_of_one_system_has_no_ratios() -> None:
    table = every_point(study(result(("sun",), zipf=(0.0, 1.5), concurrency=(8,), repetitions=2)))
    assert not any("/ this" in column for column in table.columns)


def test_tasks_have_a_row_for_each_system_and_fairness_below() -> None:
    found = study(result(zipf=(1.5,), concurrency=(8,)))
    table = tasks_at(found, found.headline)
    assert [row[:2] for row in texts(table)][:3] == [["math", "sun"], ["math", "isolated"], ["code", "sun"]]
    assert table.columns[2] == "share of the requests"
    assert texts(table)[0][2] == "59.8 %"
    assert "sun 0.925, isolated 0.925" in table.note


def test_tasks_over_the_limit_are_counted() -> None:
    names = [f"task-{number}" for number in range(MOST_TASKS + 7)]
    found = study(result(("sun",), zipf=(0.0,), concurrency=(8,), tasks=names, repetitions=1))
    table = tasks_at(found, found.headline)
    assert len(table.rows) == MOST_TASKS
    assert "The 7 tasks that follow are in the JSON file." in table.note


def test_tasks_are_medians_of_the_valid_runs() -> None:
    runs = [run(metrics(tokens, 50, 100), number) for number, tokens in enumerate((10.0, 40.0, 20.0))]
    bad = run(metrics(900.0, 50, 100), 3, problems=["late"])
    found = study(with_runs(result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun", *runs, bad))
    assert texts(tasks_at(found, found.headline))[0][3] == "5.00"


def test_failed_requests_are_summed_over_runs_by_system_and_kind() -> None:
    def failed(kind: str, count: int) -> ErrorReport:
        return ErrorReport(kind=kind, count=count, in_window=1, tasks={"math": count}, first_message=f"<{kind}>")

    runs = [run(metrics(10, 50, 100), n, errors=[failed("http_429", 3), failed("timeout", 9)]) for n in range(2)]
    found = study(with_runs(result(zipf=(0.0,), concurrency=(8,)), "isolated", *runs))
    assert texts(faults.failed_requests(found)) == [
        ["isolated", "timeout", "<timeout>", "18", "2"],
        ["isolated", "http_429", "<http_429>", "6", "2"],
    ]


def test_verdict_counts_runs_that_are_not_valid_and_those_cut_short() -> None:
    runs = [
        run(metrics(10, 50, 100), 0),
        run(metrics(10, 50, 100), 1, problems=["this process was late"]),
        run(metrics(10, 50, 100), 2, ending=Ending.CUT_SHORT),
    ]
    found = study(with_runs(result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun", *runs))
    assert not faults.is_valid(found)
    assert faults.verdict(found) == (
        "1 of 3 runs is not valid, and is in no number of this page. 1 of them the user stopped early."
    )
    assert texts(faults.problems(found)) == [["sun", "all", "2", "this process was late"]]


def test_verdict_of_nothing_measured_is_not_valid() -> None:
    found = study(with_runs(result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun"))
    assert (faults.is_valid(found), faults.verdict(found)) == (False, "Nothing was measured.")


def searched(*, complete: bool) -> Study:
    bad = run(metrics(0, 1, 1), problems=["no request was completed in the window"])
    steps = (SearchStep(request_rate=4.0, within=False, run=bad),)
    search = SearchReport(repetition=0, max_rate=None, failed_rate=4.0, complete=complete, steps=steps)
    content = with_runs(result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun")
    content.points[0].systems["sun"] = SystemPoint(searches=(search,))
    return study(content)


def test_verdict_of_a_search_that_ended_by_its_rule_is_valid_whatever_its_steps_were() -> None:
    found = searched(complete=True)
    assert (faults.is_valid(found), faults.verdict(found)) == (True, "The search is valid.")
    assert faults.problems(found).rows == ()


def test_verdict_of_a_search_that_was_stopped_is_that_of_its_last_step() -> None:
    found = searched(complete=False)
    assert not faults.is_valid(found)
    assert texts(faults.problems(found))[0][3] == "no request was completed in the window"


def test_problems_have_the_system_that_could_not_be_measured() -> None:
    content = result(zipf=(0.0,), concurrency=(8,), repetitions=1)
    systems = (content.systems[0], content.systems[1].model_copy(update={"error": "port 8000 is taken"}))
    found = study(content.model_copy(update={"systems": systems}))
    assert texts(faults.problems(found)) == [["isolated", "all", "-", "port 8000 is taken"]]


def test_notes_name_where_they_hold_once() -> None:
    runs = [run(metrics(10, 50, 100), number, notes=["the load was not reached"]) for number in range(3)]
    found = study(with_runs(result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun", *runs))
    assert faults.notes(found) == ("sun: the load was not reached",)


def test_notes_state_what_differs_between_files() -> None:
    one = result(("sun",), zipf=(0.0,), concurrency=(8,), repetitions=1)
    other = result(("isolated",), zipf=(0.0,), concurrency=(8,), repetitions=1).model_copy(update={"revision": None})
    plan = other.points[0].plan.model_copy(update={"sha256": "f" * 64})
    other = other.model_copy(update={"points": (other.points[0].model_copy(update={"plan": plan}),)})
    notes = faults.notes(study_of([Source("a", one), Source("b", other)]))
    assert "different commits" in notes[0]
    assert "The requests differ between systems at Zipf 0, 8 requests in flight" in notes[1]


def test_origin_has_the_command_the_commit_and_the_settings_that_were_changed() -> None:
    found = origin.origin_of(Source("a", result(zipf=(0.0, 1.5), concurrency=(8,), random_seed=7)))
    assert found.command == "sun bench --compare sun.yaml isolated.yaml"
    assert ["commit", "0" * 40] in texts(found.facts)
    changed = dict(texts(found.settings))
    assert changed["random_seed"] == "7"
    assert changed["zipf"] == "0, 1.5"
    assert changed["num_profile_runs"] == "3"
    assert "random_seed" not in dict(texts(found.defaults))
    assert [row[0] for row in texts(found.plans)] == ["Zipf 0", "Zipf 1.5"]


def test_origin_names_the_files_of_the_requests() -> None:
    content = result(("sun",), zipf=(0.0,), concurrency=(8,), repetitions=1)
    files = [{"task": None, "name": "azure.csv", "sha256": "abc"}]
    plan = content.points[0].plan.model_copy(update={"origin": {"files": files}})
    content = content.model_copy(update={"points": (content.points[0].model_copy(update={"plan": plan}),)})
    found = origin.origin_of(Source("a", content))
    assert texts(found.plans)[0][2] == "task: none, name: azure.csv, sha256: abc"


def test_headline_of_two_systems_has_ratios_with_intervals() -> None:
    found = headline(study(result(zipf=(1.5,), concurrency=(8,))))
    (sentence,) = found.sentences
    assert sentence.startswith("sun serves ")
    assert "times (" in sentence
    assert "for each decode worker" in sentence
    assert [number.label for number in found.numbers][:2] == [
        "output tokens/s: sun / isolated",
        "output tokens/s per decode worker: sun / isolated",
    ]
    assert found.where == "Zipf 1.5, 8 requests in flight, ISL 32, OSL 64"


def test_headline_has_a_sentence_for_each_other_system() -> None:
    found = headline(study(result(("sun", "isolated", "plain"), zipf=(1.5,), concurrency=(8,))))
    assert [sentence.split(" tokens of ")[1].split(",")[0] for sentence in found.sentences] == ["isolated", "plain"]


def test_headline_states_that_an_interval_contains_one() -> None:
    def alone(name: str, *tokens: float) -> Source:
        content = result((name,), zipf=(0.0,), concurrency=(8,), repetitions=1)
        return Source(name, with_runs(content, name, *(run(metrics(t, 50, 100), n) for n, t in enumerate(tokens))))

    both = study_of([alone("a", 10, 12, 14), alone("b", 12, 12, 12)])
    (sentence,) = headline(both).sentences
    assert sentence.endswith("; the first interval contains 1, so the runs do not tell them apart.")


def test_headline_of_a_search_begins_with_the_traffic() -> None:
    found = headline(study(result(zipf=(0.0,), concurrency=(8,), max_rate=True)))
    assert found.sentences[0].startswith("sun carries 2.22 times (2.15 to 2.29) the traffic of isolated")


def test_headline_of_one_system_has_its_numbers() -> None:
    found = headline(study(result(("sun",), zipf=(1.5,), concurrency=(8,))))
    assert found.sentences == ("sun serves 40.0 tokens/s (38.8 to 41.2), with 109 ms (106 to 113) per output token.",)


def test_headline_without_a_valid_run_says_so() -> None:
    content = with_runs(
        result(("sun",), zipf=(0.0,), concurrency=(8,)), "sun", run(metrics(1, 1, 1), problems=["late"])
    )
    found = headline(study(content))
    assert found.sentences == ("sun has no valid run at this load.",)
    assert found.numbers == ()
