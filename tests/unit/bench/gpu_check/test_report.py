"""The table and the JSON report."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sun_sglang.bench.gpu_check.report import passed, show, write_report
from sun_sglang.bench.gpu_check.stage import Outcome, StageResult


def result(outcome: Outcome, message: str = "", **figures: Any) -> StageResult:
    return StageResult(f"stage-{outcome}", "what it proves", outcome, 1.5, figures, message)


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
    assert passed([result(outcome) for outcome in outcomes]) is ok


def test_report_holds_the_command_the_machine_and_every_stage(tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.json"
    write_report(file, "the command", {"cores": 2}, [result("passed", answers=3), result("failed", "why")])
    report = json.loads(file.read_text())
    assert (report["command"], report["machine"], report["ok"]) == ("the command", {"cores": 2}, False)
    assert report["counts"] == {"passed": 1, "failed": 1, "skipped": 0}
    assert report["stages"][0]["figures"] == {"answers": 3}
    assert (report["stages"][1]["outcome"], report["stages"][1]["message"]) == ("failed", "why")


def shown(*results: StageResult) -> str:
    page = io.StringIO()
    show(Console(file=page, width=300), results)
    return page.getvalue()


def test_table_shows_figures_that_are_no_tables() -> None:
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
