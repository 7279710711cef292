"""What `sun train` shows of its data, in a dry run and before a real one."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sun_sglang.cli.display.data_view import data_views
from sun_sglang.cli.main import main
from sun_sglang.train.data.preview import DataPreview, PreviewedExample
from sun_sglang.train.data.report import DataReport
from sun_sglang.train.recipe import Recipe

EXAMPLE = PreviewedExample("d.jsonl:1", "<|user|>[red]\x1b[2J q<|end|>", "yes<|end|>", 9, 4)


def shown(console: Console) -> str:
    for view in data_views(DataPreview((EXAMPLE,), 0.25, DataReport("Alpaca")), 8, console):
        console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_gets_a_loss_is_coloured_or_marked() -> None:
    coloured = shown(Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=100))
    assert "\x1b[1;32myes<|end|>\x1b[0m" in coloured
    assert "loss>>" not in coloured
    plain = shown(Console(file=io.StringIO(), width=100))
    assert r"<|user|>[red]\x1b[2J q<|end|>[loss>>yes<|end|><<loss]" in plain, "no markup, no control characters"
    assert "25.0%" in plain


@pytest.fixture
def sun_train(
    recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, str]]:
    """Run `sun train` on a data set with a row that is too long; returns standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    rows = [{"question": f"{i}", "answer": "y" * (200 if i == 5 else 3)} for i in range(20)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*options: str, **change: Any) -> tuple[str, str]:
        recipe(data={"file": "d.jsonl", "max_length": 60}, learning_rates=[1e-3], **change)
        with pytest.raises(SystemExit) as stopped:
            main(["train", str(tmp_path / "recipe.yaml"), *options])
        captured = capsys.readouterr()
        assert not stopped.value.code, captured.err
        return captured.out, captured.err

    return run


def test_a_dry_run_shows_the_data(sun_train: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    out, _ = sun_train("--dry-run")
    assert "<|user|>0<|end|><|assistant|>[loss>>yyy<|end|><<loss]" in out
    assert "d.jsonl:6)" in out, "the longest"
    assert "left out: 1 of 20" in out
    data = json.loads(sun_train("--dry-run", "--json")[0])["data"]
    assert data["left_out"] == [
        {"reason": "longer than 60 tokens (data.max_length)", "examples": 1, "first": f"{tmp_path / 'd.jsonl'}:6"}
    ]
    assert data["format"] == "question and answer"
    assert data["longest"] == {"tokens": 205, "at": f"{tmp_path / 'd.jsonl'}:6"}
    assert 0.4 < data["loss_share"] < 0.5


def test_a_real_run_reports_the_rows_that_it_leaves_out(sun_train: Callable[..., tuple[str, str]]) -> None:
    _, err = sun_train(epochs=0.1)
    assert "left out: 1 of 20 examples: longer than 60 tokens (data.max_length); first: " in err


@pytest.mark.parametrize("dry", [True, False])
def test_a_model_whose_tensors_are_not_compared_is_reported(
    sun_train: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    monkeypatch.setattr("sun_sglang.train.modules.require_complete", lambda _model: "its tensors have other names")
    _, err = sun_train(*(["--dry-run"] if dry else []), epochs=0.1)
    assert "note: base: " in err
    assert "tensors are checked only while they load (its tensors have other names)" in err
    if dry:
        (note,) = json.loads(sun_train("--dry-run", "--json")[0])["notes"]
        assert "its tensors have other names" in note


def test_libraries_get_cache_directories_that_can_be_written(
    sun_train: Callable[..., tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/none")
    monkeypatch.setattr("sun_sglang.files.user_cache.engine_caches", lambda _environ: {"HF_HOME": str(tmp_path)})
    sun_train("--dry-run")
    assert os.environ["HF_HOME"] == str(tmp_path)
