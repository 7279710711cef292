from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sun_sglang.cli.main import main
from sun_sglang.train.data.examples import Example, read_jsonl
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


GOOD = {"messages": [{"role": "user", "content": "a\u2028b"}], "answer": "42"}


def error_of(file: Path, capsys: pytest.CaptureFixture[str], *pair: str) -> str:
    """Return the error of `sun eval` for a file of questions."""
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(file), *(pair or PAIR), "--threads", "1"])
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (json.dumps({**GOOD, "answer": 42}).encode(), "answer is int; both must be text"),
        (json.dumps({**GOOD, "answer": None}).encode(), "answer is null"),
        (json.dumps({**GOOD, "answer": "\ud800"}).encode(), "surrogates not allowed"),
        (json.dumps({"messages": [], "answer": "a"}).encode(), "one user message"),
        (b"[1]", "one user message"),
        (b"{", "one user message"),
        (b'{"answer": "\xe9"}', "one user message"),
        (b"[" * 100_000, "one user message"),
    ],
)
def test_line_of_another_form_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, problem: str
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    error = error_of(file, capsys)
    assert "questions.jsonl:3: " in error
    assert problem in error


def test_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD, ensure_ascii=False).encode() + b"\r\n\n")
    assert read_jsonl(file) == [Example("a\u2028b", "42")]


def test_directory_in_place_of_questions_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Is a directory" in error_of(tmp_path, capsys)


@pytest.mark.parametrize(
    ("content", "problem"),
    [({"base_model_name_or_path": "org/base"}, "is a LoRA adapter of org/base"), (None, "is not a directory")],
)
def test_module_that_is_no_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, str] | None, problem: str
) -> None:
    module = tmp_path / "module"
    if content is not None:
        module.mkdir()
        (module / "adapter_config.json").write_text(json.dumps(content))
    pair = ["--prefill", str(module), *PAIR[2:]]
    error = error_of(DEMO / "data" / "tool.test.jsonl", capsys, *pair)
    assert "--prefill: " in error
    assert problem in error


def test_a_file_without_questions_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "none.jsonl"), *PAIR])
    assert ended.value.code == 1
    assert "has no questions" in capsys.readouterr().err


def test_pickled_weights_are_evaluated_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import load_file

    pickled = tmp_path / "tool"
    shutil.copytree(DEMO / "models" / "tool", pickled)
    weights = load_file(pickled / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    questions = str(DEMO / "data" / "tool.test.jsonl")
    found = []
    for prefill in (PAIR[1], str(pickled)):
        with pytest.raises(SystemExit) as ended:
            main(["eval", questions, "--prefill", prefill, *PAIR[2:], "--limit", "3", "--threads", "1", "--json"])
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        found.append((json.loads(captured.out)["correct"], captured.err))
    assert found[0] == (3, "")
    assert found[1][0] == 3
    assert f"--prefill: {pickled}: tensors are checked only while they load (its weights are pickled)" in found[1][1]
