"""The table and the JSON report."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sun_sglang.bench.gpu_check.report import check_report, show
from sun_sglang.bench.gpu_check.stage import Outcome, StageResult
from sun_sglang.bench.provenance import Machine


def result(outcome: Outcome, message: str = "", **measured: Any) -> StageResult:
    return StageResult(f"stage-{outcome}", "what it proves", outcome, 1.5, measured, message)


@pytest.mark.parametrize(
    ("outcomes", "ok"),
    [
        ((), False),
        (("skipped", "skipped"), False),
        (("passed",), True),
        (("passed", "skipped"), True),
        (("passed", "failed"), False),
    ],
)
def test_check_passes_where_a_stage_passed_and_none_failed(outcomes: tuple[Outcome, ...], ok: bool) -> None:
    assert check_report("", Machine(), [result(outcome) for outcome in outcomes]).passed is ok


def test_report_holds_the_command_the_machine_and_every_stage() -> None:
    report = check_report("the command", Machine(cores=2), [result("passed", answers=3), result("failed", "why")])
    assert (report.name, report.command, report.machine.cores) == ("gpu_check", "the command", 2)
    assert not report.passed
    good, bad = report.runs
    assert (good.case["stage"], good.details, good.values) == ("stage-passed", {"answers": 3}, {"seconds": 1.5})
    assert (bad.outcome, bad.message) == ("failed", "why")


def shown(*results: StageResult) -> str:
    page = io.StringIO()
    show(Console(file=page, width=300), results)
    return page.getvalue()


def test_table_shows_measured_values_that_are_no_tables() -> None:
    text = shown(result("passed", answers=3, nested={"a": 1}))
    assert "answers: 3" in text
    assert "nested" not in text


@pytest.mark.parametrize(
    ("message", "headline"),
    [
        ("Traceback\n  KeyError in the middle\nKeyError: '[/red]'\n", "KeyError: '[/red]'"),
        (
            "`sun launch` failed:\n--- a-0.log\ntorch.OutOfMemoryError: 4 GiB\n\nkilled\n",
            "torch.OutOfMemoryError: 4 GiB",
        ),
        ("task `a`: token 3 is wrong\nand more", "task `a`: token 3 is wrong"),
    ],
    ids=["traceback", "log", "message"],
)
def test_table_shows_one_line_of_a_failure(message: str, headline: str) -> None:
    text = shown(result("failed", message))
    assert headline in text
    assert len(text.splitlines()) == len(shown(result("failed", "one line")).splitlines())
