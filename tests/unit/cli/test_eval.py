from __future__ import annotations

import json
from pathlib import Path

import pytest

from sun_sglang.cli.main import main
from tests.support.training import one_thread

__all__ = ["one_thread"]  # a fixture of every test here

DEMO = Path(__file__).parents[3] / "configs" / "demo"
PAIR = ["--prefill", str(DEMO / "models" / "tool"), "--decode", str(DEMO / "models" / "base")]


def test_it_counts_right_answers_of_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(DEMO / "data" / "tool.test.jsonl"), *PAIR, "--limit", "12", "--threads", "1", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["first_token"]) == (12, "prefill")
    assert found["low"] <= found["percent"] <= found["high"]
    # the committed figure is 300 of 300
    assert found["correct"] >= 11


def test_a_file_without_questions_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "none.jsonl"), *PAIR])
    assert ended.value.code == 1
    assert "has no questions" in capsys.readouterr().err
