"""EvalPlus and BFCL by stand-ins that note how they were called and write files of the harnesses' own form."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import UserError
from sun_sglang.evaluation.benchmark import Benchmark
from sun_sglang.evaluation.endpoint import Endpoint
from sun_sglang.evaluation.harnesses import bfcl, evalplus

ENDPOINT = Endpoint("http://127.0.0.1:8000")
Install = Callable[[str, str], None]
NOTE = """
import json, os, pathlib, sys
note = pathlib.Path(os.environ["NOTES"])
told = {k: os.environ.get(k) for k in ("BFCL_PROJECT_ROOT", "REMOTE_OPENAI_BASE_URL", "OPENAI_API_KEY")}
with note.open("a") as file:
    print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), **told}), file=file)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that puts a program on the PATH, which is otherwise empty."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def put(name: str, code: str) -> None:
        file = tmp_path / "bin" / name
        file.write_text(f"#!{sys.executable}\n{NOTE}{code}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    return put


def notes(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


# evalplus 0.3.1: codegen.py names the answers' file, evaluate.py the results' and what is in it
EVALPLUS = """
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(args["--root"]) / args["--dataset"]
out.mkdir(parents=True)
def tried(base, plus):
    return [{"base_status": base, "plus_status": plus}]
found = {"a": tried("pass", "pass"), "b": tried("pass", "fail"), "c": tried("fail", "fail"), "d": tried("pass", "pass")}
name = args["--model"] + "_openai_temp_0.0_eval_results.json"
(out / name).write_text(json.dumps({"hash": "0", "eval": found}))
"""


def test_evalplus_is_called_with_its_own_flags_and_read(tmp_path: Path, install: Install) -> None:
    install("evalplus.evaluate", EVALPLUS)
    found = evalplus.run_benchmark(
        Benchmark("code", "evalplus", "humaneval"), ENDPOINT, tmp_path / "out", unsafe_code=True
    )
    (call,) = notes(tmp_path)
    wanted = "--model code --dataset humaneval --backend openai --base-url http://127.0.0.1:8000/v1 --root"
    assert call["argv"] == [*wanted.split(), str(tmp_path / "out" / "evalplus"), "--greedy"]
    assert call["OPENAI_API_KEY"] == "none"
    assert found.questions == 4
    assert [(s.metric, s.correct) for s in found.scores] == [("pass@1, base tests", 3), ("pass@1", 2)]


def test_evalplus_runs_code_only_where_that_is_allowed(tmp_path: Path, install: Install) -> None:
    install("evalplus.evaluate", EVALPLUS)
    with pytest.raises(UserError, match="--run-unsafe-code"):
        evalplus.run_benchmark(Benchmark("code", "evalplus", "mbpp"), ENDPOINT, tmp_path, unsafe_code=False)
    assert not (tmp_path / "notes").exists()


def test_an_unknown_data_set_of_evalplus_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not `gsm8k`"):
        evalplus.run_benchmark(Benchmark("code", "evalplus", "gsm8k"), ENDPOINT, tmp_path, unsafe_code=True)


def test_a_harness_that_is_absent_says_how_to_install_it(tmp_path: Path, install: Install) -> None:
    with pytest.raises(UserError, match="pip install evalplus"):
        evalplus.run_benchmark(Benchmark("code", "evalplus", "mbpp"), ENDPOINT, tmp_path, unsafe_code=True)
    with pytest.raises(UserError, match="pip install bfcl-eval"):
        bfcl.run_benchmark(Benchmark("tool", "bfcl", "m:live"), ENDPOINT, tmp_path, str(tmp_path), 4)


def test_a_harness_that_fails_is_named_with_its_exit_code(tmp_path: Path, install: Install) -> None:
    install("evalplus.evaluate", "sys.exit(3)")
    with pytest.raises(UserError, match=r"evalplus.evaluate --model code .* failed with exit status 3"):
        evalplus.run_benchmark(Benchmark("code", "evalplus", "mbpp"), ENDPOINT, tmp_path, unsafe_code=True)


def test_a_harness_that_writes_nothing_is_an_error(tmp_path: Path, install: Install) -> None:
    install("evalplus.evaluate", "")
    with pytest.raises(UserError, match=r"code_openai_temp_0\.0_eval_results\.json: is missing"):
        evalplus.run_benchmark(Benchmark("code", "evalplus", "mbpp"), ENDPOINT, tmp_path, unsafe_code=True)


# bfcl-eval 2026.3.23: base_handler.py writes answers, eval_runner_helper.py scores, a header and then what was wrong
BFCL = """
root = pathlib.Path(os.environ["BFCL_PROJECT_ROOT"])
kind = "result" if sys.argv[1] == "generate" else "score"
out = root / kind / "Qwen_Qwen3-8B-FC" / "live"
out.mkdir(parents=True)
answers = [{"id": f"live_simple_{i}", "result": "ANSWER" if i == 2 else "[f(x=1)]"} for i in range(4)]
header = {"accuracy": 0.75, "correct_count": 3, "total_count": 4}
lines = answers if kind == "result" else [header, {"id": "live_simple_2", "valid": False}]
(out / f"BFCL_v4_live_simple_{kind}.json").write_text("".join(json.dumps(line) + chr(10) for line in lines))
"""
TOOL = Benchmark("tool", "bfcl", "Qwen/Qwen3-8B-FC:live_simple")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def test_bfcl_is_called_with_its_own_flags_and_read(tmp_path: Path, install: Install, model: Path) -> None:
    install("bfcl", BFCL)
    (found,) = bfcl.run_benchmark(TOOL, ENDPOINT, tmp_path / "out", str(model), 8)
    asks, scores = notes(tmp_path)
    which = "--model Qwen/Qwen3-8B-FC --test-category live_simple"
    how = "--skip-server-setup --local-model-path tool --num-threads 8 --temperature 0"
    assert asks["argv"] == f"generate {which} {how}".split()
    assert scores["argv"] == f"evaluate {which}".split()
    assert asks["REMOTE_OPENAI_BASE_URL"] == "http://127.0.0.1:8000/v1"
    assert asks["cwd"] == asks["BFCL_PROJECT_ROOT"] == scores["BFCL_PROJECT_ROOT"]
    # the request's `model` is the path, and the path leads to the model's files
    assert (Path(asks["cwd"]) / "tool" / "config.json").exists()
    assert (found.benchmark, found.version, found.questions) == ("live_simple", "v4", 4)
    assert [(s.metric, s.correct) for s in found.scores] == [("accuracy", 3)]


def test_requests_that_failed_are_no_wrong_answers(tmp_path: Path, install: Install, model: Path) -> None:
    install("bfcl", BFCL.replace("ANSWER", "Error during inference: 400"))
    with pytest.raises(UserError, match="1 of 4 requests failed; live_simple_2: Error during inference: 400"):
        bfcl.run_benchmark(TOOL, ENDPOINT, tmp_path / "out", str(model), 8)
    assert [call["argv"][0] for call in notes(tmp_path)] == ["generate"]


def test_bfcl_is_not_sent_to_a_router_with_keys(
    tmp_path: Path, install: Install, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bfcl", BFCL)
    monkeypatch.setenv("OPENAI_API_KEY", "3f9c0e7d1b5a4c62")
    with pytest.raises(UserError, match="requires a key"):
        bfcl.run_benchmark(TOOL, ENDPOINT, tmp_path, str(model), 8)


@pytest.mark.parametrize("name", ["simple_python", ":simple_python", "Qwen/Qwen3-8B-FC:"])
def test_bfcl_needs_a_model_and_a_category(name: str) -> None:
    with pytest.raises(UserError, match="MODEL:CATEGORY"):
        bfcl.commands(Benchmark("tool", "bfcl", name), 1)
