from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.cli.main import main
from sun_sglang.evaluation.pair import load_tokenizer
from sun_sglang.evaluation.questions import read_questions
from sun_sglang.train.data.examples import Example, encode, read_jsonl
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


def error_of(file: Path, capsys: pytest.CaptureFixture[str], *options: str, code: int = 1) -> str:
    """Return the error of `sun eval` for a file of questions, its exit code checked."""
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(file), *(options or PAIR), "--threads", "1"])
    assert ended.value.code == code
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (json.dumps({**GOOD, "answer": None}).encode(), "`answer` is null"),
        (json.dumps({**GOOD, "answer": "\ud800"}).encode(), "half of a surrogate pair"),
        (json.dumps({"messages": [], "answer": "a"}).encode(), "`messages` is not a list of messages"),
        (json.dumps({"messages": GOOD["messages"]}).encode(), "no column `answer`"),
        (json.dumps({**GOOD, "answer": "a" * 3000}).encode(), "tokens, and the models have 2,048 positions"),
        (b"[1]", "is not a JSON object"),
        (b"5", "is not a JSON object"),
        (b"{", "is not JSON"),
        (b'{"answer": "\xe9"}', "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
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


def test_columns_of_no_known_format_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.csv").write_text("ask,tell\na,b\n")
    assert "q.csv:2: the columns `ask`, `tell` are of no known format; name them" in error_of(
        tmp_path / "q.csv", capsys
    )


QUESTIONS = [json.loads(line) for line in (DEMO / "data" / "tool.test.jsonl").read_text().splitlines()[:3]]
CHATS = [[*row["messages"], {"role": "assistant", "content": row["answer"]}] for row in QUESTIONS]
PAIRS = [(row["messages"][0]["content"], row["answer"]) for row in QUESTIONS]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", lines(QUESTIONS)),
        ("q.jsonl.gz", gzip.compress(lines(QUESTIONS), mtime=0)),
        ("q.json", json.dumps(QUESTIONS).encode()),
        ("chats.jsonl", lines([{"messages": chat, "answer": "another column"} for chat in CHATS])),
        (
            "sharegpt.jsonl",
            lines([{"conversations": [{"from": m["role"], "value": m["content"]} for m in c]} for c in CHATS]),
        ),
        ("pairs.jsonl", lines([{"prompt": question, "completion": answer} for question, answer in PAIRS])),
        ("alpaca.jsonl", lines([{"instruction": question, "output": answer} for question, answer in PAIRS])),
    ],
)
def test_questions_of_every_training_format_are_the_same_tokens(tmp_path: Path, name: str, content: bytes) -> None:
    tokenizer = load_tokenizer(DEMO / "models" / "base")
    (tmp_path / name).write_bytes(content)
    models = DEMO / "models" / "tool", DEMO / "models" / "base"
    found = read_questions(tmp_path / name, tokenizer, *models)
    assert found.examples == [encode(tokenizer, Example(*pair)) for pair in PAIRS]
    assert found.end_tokens == {tokenizer.eos_token_id}
    assert len(read_questions(tmp_path / name, tokenizer, *models, limit=2).examples) == 2


def test_report_of_an_evaluation_without_servers_is_written_to_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "report.json"
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(DEMO / "data" / "tool.test.jsonl"), *PAIR, "--limit", "1", "--json", "--out", str(out)])
    assert ended.value.code == 0
    assert json.loads(out.read_text()) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("place", "problem"), [("", "is a directory"), ("file/x.json", "cannot be written")])
def test_out_that_cannot_be_written_is_an_error_before_the_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, problem: str
) -> None:
    (tmp_path / "file").touch()
    assert problem in error_of(tmp_path / "no questions", capsys, *PAIR, "--out", str(tmp_path / place))


@pytest.mark.parametrize(
    "option",
    [
        ["--few-shot", "1"],
        ["--prompt", "messages"],
        ["--concurrency", "2"],
        ["--max-tokens", "9"],
        ["--timeout", "9"],
        ["--include-path", "x"],
        ["--tokenizer", "x"],
        ["--run-unsafe-code"],
        ["--answers", "x.jsonl"],
        ["--harness-dir", "x"],
    ],
    ids=lambda option: option[0],
)
def test_option_of_served_tasks_without_servers_is_refused(
    option: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    error = error_of(Path("q.jsonl"), capsys, *PAIR, *option, code=2)
    assert f"{option[0]}: is only for --served" in error


@pytest.mark.parametrize("option", [["--prefill", "x"], ["--decode", "x"], ["--first-token", "auto"], []])
def test_option_without_servers_beside_served_is_refused(
    option: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    # `error_of` adds --threads
    error = error_of(Path("t=gsm8k"), capsys, "--served", "http://127.0.0.1:1", *option, code=2)
    assert f"{option[0] if option else '--threads'}: is for evaluation without servers" in error


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
