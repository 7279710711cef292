"""The benchmark of quantised decoders: its grids, the work that it keeps, and its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.figures.quantized_table import ROWS
from sun_sglang.bench.report import Report, read_report
from sun_sglang.bench.training import quantized
from sun_sglang.bench.training.accuracy_runs import Setting, TaskSetting, TuningRun
from sun_sglang.bench.training.grids import Grid, grid_of
from sun_sglang.bench.training.quantized_cells import METHODS, Part, QuantizedCells
from sun_sglang.bench.training.stored import read_stored, stored

TASKS = {"math": TaskSetting(32, (1e-3, 2e-3)), "tool": TaskSetting(64, (1e-3, 2e-3))}
# exact match in percent of each method on the coarse grid
PERCENT = {
    "full": 99.0,
    "full_quantized": 90.0,
    "sun": 98.0,
    "sun_retuned": 99.0,
    "sun_quantized": 80.0,
    "control": 84.0,
    "qsun": 97.0,
}


class NoTuning:
    """Stands for the tuning runs: the lower rate has the lower loss."""

    def __init__(self, base: Path, _work: Path, setting: Setting, _log: Callable[[str], None]) -> None:
        self.base, self.setting = base, setting

    def do(self, runs: list[TuningRun], _jobs: int) -> None:
        assert {run.seed for run in runs} == {0}

    def done(self, _run: TuningRun) -> bool:
        return True

    def loss(self, run: TuningRun) -> float:
        return run.rate

    def seconds_of(self, _run: TuningRun) -> float:
        return 2.0

    def search(self, task: str, scheme: str) -> tuple[float, dict[float, float]]:
        losses = {rate: self.loss(TuningRun(task, scheme, 0, rate)) for rate in self.setting.tasks[task].rates}
        return min(losses, key=losses.__getitem__), losses


class NoRetuning:
    """Stands for the re-tuning runs."""

    def __init__(self, *_: object) -> None:
        pass

    def loss(self, _run: object) -> float:
        return 0.25

    def seconds_of(self, _run: object) -> float:
        return 1.0


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Report]:
    """Return a function that runs the benchmark on made-up scores; no model is read."""
    evaluated: list[tuple[Part, Any]] = []

    def evaluate(_cells: QuantizedCells, part: Part, cell: Any) -> Mapping[str, Any]:
        evaluated.append((part, cell))
        fine = cell.grid == "rtn-4-128"
        percent = PERCENT["sun" if fine and cell.method == "sun_quantized" else cell.method] - part.seed
        return {"correct": round(10 * percent), "total": 1000, "percent": percent, "low": 0.0, "high": 100.0}

    monkeypatch.setattr(quantized, "TuningRuns", NoTuning)
    monkeypatch.setattr("sun_sglang.bench.training.quantized_cells.RetuningRuns", NoRetuning)
    monkeypatch.setattr(quantized, "DEFAULT", TASKS)
    monkeypatch.setattr(QuantizedCells, "_evaluate", evaluate)
    for module in ("quantized", "quantized_cells"):
        monkeypatch.setattr(f"sun_sglang.bench.training.{module}.weights_revision", lambda _: "ec2ece1588c35035")
    monkeypatch.setattr(Grid, "quantize", lambda _grid, _model, out: out.mkdir())

    def run(*arguments: str) -> tuple[Report, list[tuple[Part, Any]]]:
        evaluated.clear()
        where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["benchmark", *where, *arguments])
        quantized.main()
        return read_report(tmp_path / "training_quantized.json"), list(evaluated)

    return run


def test_report_has_each_cell_and_the_table_each_row(benchmark: Any, tmp_path: Path) -> None:
    report, evaluated = benchmark("--seeds", "2")
    per_part = sum(2 if has_grid else 1 for has_grid in METHODS.values())
    assert len(evaluated) == len(list(report.select("correct"))) == 2 * 2 * per_part
    assert report.seeds == (0, 1)
    assert report.settings["rates"] == {task: {"full": 1e-3, "prefill_only": 1e-3} for task in TASKS}
    assert len(list(report.select("validation_loss"))) == 2 * 2 * 2
    # of each part two first tunings and three re-tunings, and of the search the rates that were not chosen
    assert report.median("tuning_s", {}) == 4 * (2 * 2 + 3) + 4 * 2
    table = (tmp_path / "training_quantized.md").read_text()
    assert table.count("## ") == 2
    assert "- `rtn-4-128`: math 0.0, tool 0.0; no task loses a point: this grid does no harm at this size." in table
    assert "- `rtn-3-128`: math 18.0, tool 18.0." in table
    assert f"| {ROWS['full_quantized'].title} | 3/3 | 89.5 ± 0.7 | 89.5 ± 0.7 | 89.5 ± 0.7 | -8.0 ± 0.0 |" in table
    assert f"| {ROWS['qsun'].title} | 16/3 | 96.5 ± 0.7 | 96.5 ± 0.7 | 96.5 ± 0.7 | -1.0 ± 0.0 |" in table
    assert f"| {ROWS['sun'].title} | 16/16 | 97.5 ± 0.7 | 97.5 ± 0.7 | 97.5 ± 0.7 |  |" in table


def test_finished_cells_are_kept_and_those_of_other_settings_are_done_again(benchmark: Any) -> None:
    benchmark("--seeds", "1", "--grids", "3:128")
    _, evaluated = benchmark("--seeds", "2", "--grids", "3:128")
    assert {part.seed for part, _ in evaluated} == {1}
    _, evaluated = benchmark("--seeds", "1", "--grids", "3:128", "4:32")
    assert {cell.grid for _, cell in evaluated} == {"rtn-4-32"}
    _, evaluated = benchmark("--seeds", "1", "--grids", "3:128", "--questions", "100")
    assert len(evaluated) == 2 * len(METHODS)


def test_done_only_reports_whole_parts(benchmark: Any) -> None:
    benchmark("--seeds", "1")
    report, evaluated = benchmark("--seeds", "3", "--done-only")
    assert not evaluated
    assert {run.seed for run in report.select("correct")} == {0}
    assert report.command.endswith("--done-only")


def test_stored_part_of_another_subject_runs_again(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "part.json"
    assert read_stored(file, {"seed": 0}) is None
    assert stored(file, {"seed": 0}, lambda: {"score": 1})["score"] == 1
    assert stored(file, {"seed": 0}, lambda: {"score": 2})["score"] == 1
    assert stored(file, {"seed": 1}, lambda: {"score": 2})["score"] == 2


def test_grids_of_the_command_line() -> None:
    assert grid_of("4:128") == grid_of("rtn:4:128") == Grid("rtn", 4, 128)
    assert grid_of("3:32").name == "rtn-3-32"
    for wrong in ("4", "4:x", "1:128", "9:128", "4:0", "best:4:128", "a:b:4:128", "4:-1"):
        with pytest.raises(argparse.ArgumentTypeError, match=wrong):
            grid_of(wrong)
