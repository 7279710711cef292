"""The reports of the benchmarks of training, from made-up runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.report import RESULTS, Report, read_report
from sun_sglang.bench.training import accuracy, sharing, step_cost

COMMITTED = Path(__file__).parents[4] / RESULTS


class NoTuning:
    """Stands for the tuning runs."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the results; no benchmark tunes, and none reads a model."""
    for module in (accuracy, sharing):
        monkeypatch.setattr(module, "TuningRuns", NoTuning)
    monkeypatch.setattr(accuracy, "weights_revision", lambda _: "ec2ece1588c35035")
    return tmp_path


def run(module: Any, monkeypatch: pytest.MonkeyPatch, out: Path, name: str, *arguments: str) -> Report:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--out", str(out), *arguments])
    module.main()
    return read_report(out / f"{name}.json")


def committed(name: str) -> Report:
    return read_report(COMMITTED / f"{name}.json")


def test_accuracy_writes_its_runs_its_settings_and_the_table(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = committed("training_accuracy")
    monkeypatch.setattr(accuracy, "evaluate_methods", lambda *_, **__: list(expected.runs))
    report = run(accuracy, monkeypatch, out, "training_accuracy", "--jobs", "2")
    assert (report.command, report.seeds, report.settings) == (expected.command, expected.seeds, expected.settings)
    assert report.runs == expected.runs
    tables = [(folder / "training_accuracy.md").read_text().splitlines()[:-2] for folder in (out, COMMITTED)]
    assert tables[0] == tables[1]


def test_sharing_uses_the_rates_of_the_accuracy_report(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = committed("training_sharing")
    rates: dict[str, Any] = {}

    def evaluate(_tuning: Any, task: str, _seed: int, found: Any) -> list[Any]:
        rates[task] = found
        return [run for run in expected.runs if run.case["task"] == task]

    monkeypatch.setattr(sharing, "evaluate_shares", evaluate)
    shutil.copy(COMMITTED / "training_accuracy.json", out)
    report = run(sharing, monkeypatch, out, "training_sharing", "--questions", "300")
    assert report.runs == expected.runs
    assert report.command == expected.command
    assert rates["math"] == {"full": 0.008, "prefill_only": 0.004, "decode_only": 0.004}
    assert (out / "training_sharing.svg").exists()


def test_step_cost_writes_a_run_of_each_round_and_their_medians(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cost, "SIZES", {"tiny": (128, 1)})
    monkeypatch.setattr(step_cost, "LENGTHS", ((8, 8),))
    report = run(step_cost, monkeypatch, out, "training_step_cost", "--rounds", "2", "--batch", "2")
    assert len(list(report.select("cpu_s"))) == 2 * 4
    assert {median.repetitions for median in report.medians} == {2}
    assert "| tiny, 8 + 8 | 2 | full |" in (out / "training_step_cost.md").read_text()
    case = {"size": "tiny", "prompt": 8, "answer": 8, "batch": 2}
    state = {s: report.median("state_mib", {**case, "scheme": s}) for s in ("prefill_only", "qsun")}
    layer = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 384 * 128
    # of 32 bits a weight, 4 and a scale for each 128 weights remain
    saved = layer * (4 - 0.5 - 4 / 128) / 2**20
    assert state["prefill_only"] - state["qsun"] == pytest.approx(saved, rel=1e-6)
