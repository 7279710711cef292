from __future__ import annotations

import io
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sun_sglang.bench.load.client.clock import RunClock
from sun_sglang.bench.load.client.endpoint import Endpoint
from sun_sglang.bench.load.client.load_monitor import LoadMonitor
from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.drive.progress import Progress
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.settings import workload_settings
from sun_sglang.bench.provenance import this_machine
from sun_sglang.bench.serving.account import report_run
from sun_sglang.bench.serving.result import BenchResult, PlanReport, PointReport, SystemPoint, SystemReport
from sun_sglang.bench.serving.run import Moment
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import TaskWorkers, one_endpoint
from sun_sglang.cli.display.bench_comparison import render_result
from sun_sglang.cli.display.bench_live import describe_load, live_view

TASKS = ("math", "code")


def settings(**values: Any) -> BenchSettings:
    given = {"tasks": TASKS, "warmup_duration": 30.0, "benchmark_duration": 60.0}
    return BenchSettings(workload=workload_settings(**{**given, **values}), goodput={"time_to_first_token": 400.0})


def record(index: int, due: float | None, failure: Failure | None = None) -> RequestRecord:
    sent = 31.0 + index
    return RequestRecord(
        index,
        TASKS[index % 2],
        3,
        due,
        sent,
        first=sent + 0.3,
        last=sent + 0.5,
        ended=sent + 0.5,
        arrivals=array("d", [sent + 0.3, sent + 0.4, sent + 0.5]),
        arrived=array("i", [1, 1, 1]),
        prompt_tokens=1234,
        cached_tokens=617,
        output_tokens=3,
        failure=failure,
    )


def result(
    chosen: BenchSettings,
    stop: StopSignal,
    failure: Failure | None = None,
    records: Sequence[RequestRecord] | None = None,
) -> BenchResult:
    workers = {task: TaskWorkers(frozenset({task}), frozenset({"base"})) for task in TASKS}
    target = one_endpoint("deployment", "sun.yaml", Endpoint("http://x"), TASKS, workers)
    is_open = chosen.workload.request_rate is not None
    alone = [record(i, 31.0 + i if is_open else None) for i in range(4)] + [record(4, 90.0, failure)]
    run = report_run(
        records or (alone if failure else alone[:4]),
        Window(30.0, 90.0),
        LoadMonitor(RunClock()),
        stop,
        settings=chosen,
        plan=build(chosen.workload),
        target=target,
        started="2026-01-01T00:00:00+00:00",
        preflight=2,
    )
    return BenchResult(
        command="sun bench",
        settings=chosen,
        machine=this_machine(),
        revision=None,
        systems=(SystemReport(name="sun.yaml", kind="deployment", workers=3, decode_workers=1),),
        points=(PointReport(plan=PlanReport(sha256="0", origin={}), systems={"sun.yaml": SystemPoint(runs=(run,))}),),
    )


def shown(found: BenchResult) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(render_result(found))
    return captured.get()


def test_tables_at_80_columns_show_every_number_whole() -> None:
    text = shown(result(settings(request_rate=2.0), StopSignal(), Failure("http_429", "the queue is [full]")))
    assert "…" not in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "time to first token, ms 300 300 300 300 300 300" in rows
    assert "TPOT, ms 100 100 100 100 100 100" in rows
    assert "prompt tokens 1,234 1,234 1,234 1,234 1,234 1,234" in rows
    assert "prompt tokens from a cache 50.0%" in rows
    assert any(row.startswith("interactivity (1000 / mean TPOT) 10") for row in rows)
    assert "for each decode worker 0.2 of 1" in rows
    assert "achieved / offered 100.0% of 4 requests" in rows
    assert any(row.startswith("math 50.0%") for row in rows)
    assert any(row.startswith("http_429 1 1 the queue is [full]") for row in rows)


def test_tables_of_a_closed_loop_have_no_schedule() -> None:
    text = shown(result(settings(concurrency=2), StopSignal()))
    assert "was due" not in text
    assert "offered" not in text


def test_tables_of_agents_have_sessions_and_turns() -> None:
    chosen = settings(workload="react", concurrency=2)
    calls = [replace(record(12 * session + call, None), session=session) for session in range(2) for call in range(12)]
    text = shown(result(chosen, StopSignal(), records=calls))
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "latency, s 11.5 11.5 11.5 11.5 11.5 11.5" in rows
    assert "offered 2, started 2 (0.0333 per s), completed 2 (0.0333 per s)" in rows
    assert [row for row in rows if row.startswith(("1 8", "2 8", "3 8"))] == [
        f"{turn} 8 1,234 50.0% 300 300 500" for turn in (1, 2, 3)
    ]
    assert "achieved / offered" not in text


def test_tables_mark_what_was_cut_short_or_is_not_valid() -> None:
    stop = StopSignal()
    stop.stop(Ending.CUT_SHORT, "Ctrl-C")
    assert "(cut short)" in shown(result(settings(concurrency=2), stop))
    late = StopSignal()
    late.stop(Ending.CLIENT_LATE, "behind")
    assert "(not valid)" in shown(result(settings(concurrency=2), late))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"concurrency": 8, "zipf": 1.5}, "2 tasks, Zipf 1.5, 8 requests in flight"),
        ({"request_rate": 2.0, "tasks": ("a",)}, "1 task, Zipf 0, 2 requests/s (poisson)"),
        (
            {"request_rate": 2.0, "concurrency": 4},
            "2 tasks, Zipf 0, 2 requests/s (poisson), at most 4 requests in flight",
        ),
        ({"input_file": ("dir/t.csv",)}, "2 tasks, Zipf 0, input t.csv"),
        ({"input_file": ("t.jsonl",), "concurrency": 2}, "2 tasks, Zipf 0, 2 requests in flight, input t.jsonl"),
        ({"workload": "react", "concurrency": 3}, "2 tasks, Zipf 0, 3 sessions of react in flight"),
    ],
)
def test_load_is_described_in_a_line(values: dict[str, Any], text: str) -> None:
    assert describe_load(settings(**values).workload) == text


def test_live_view_in_a_pipe_prints_a_line_for_each_phase() -> None:
    console = Console(file=io.StringIO(), width=80)
    with live_view(console, settings(concurrency=2), "sun.yaml") as view:
        for elapsed in (0.0, 10.0, 30.0, 50.0):
            view.show(Moment(elapsed, Progress()))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines == ["sun.yaml: 2 tasks, Zipf 0, 2 requests in flight", "warm-up: 30 s", "window: 60 s"]


def test_live_view_in_a_terminal_shows_counts_rates_and_failures() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    progress = Progress(sent=10, succeeded=4, tokens=400, failed={"http_429": 3})
    with live_view(console, settings(concurrency=2), "sun.yaml") as view:
        view.show(Moment(40.0, progress))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "window" in text
    assert "40 of 90 s" in text
    assert "sent 10  in flight 3  answered 4" in text
    assert "0.1 requests/s  10 tokens/s" in text
    assert "http_429 3" in text
