"""`sun eval --served`: lm-eval through the router scores what the offline two-module forward answers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.processes import run_sun
from sun_sglang.cli.main import main
from sun_sglang.train.data.examples import encode, read_jsonl
from tests.engine.conftest import Deployment, Reference
from tests.engine.demo_topology import DEMO

REPOSITORY = Path(__file__).parents[2]
BENCHMARKS = REPOSITORY / "configs" / "eval"
# the prefill and the decode model of each task; `tool-naive` is so far off that hardly an answer is right
TASKS = {"math": ("math", "base"), "tool": ("tool", "base"), "tool-naive": ("tool-full", "base")}
QUESTIONS = 48
# as in configs/eval
MAX_TOKENS = 96


@dataclass(frozen=True)
class Served:
    """The report of `sun eval`: a result and the samples of each task."""

    results: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def served(demo: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Run `sun eval` for all tasks from another directory: a benchmark's data is relative to its own file."""
    return ask(demo, list(TASKS), QUESTIONS, tmp_path_factory.mktemp("messages"))


def ask(demo: Deployment, tasks: list[str], questions: int, directory: Path, *options: str) -> Served:
    asked = [f"{task}={BENCHMARKS}/demo_{data_of(task)}.yaml" for task in tasks]
    limit = ["--limit", str(questions), "--answers", "answers.jsonl", "--json"]
    done = sun_eval(*asked, "--run-dir", str(demo.run_dir), *limit, *options, cwd=directory)
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in (directory / "answers.jsonl").read_text().splitlines()]
    return Served(
        {result["task"]: result for result in json.loads(done.stdout)["results"]},
        {task: [s for s in samples if s["task"] == task] for task in tasks},
    )


def sun_eval(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `sun eval`, as a user would."""
    return run_sun("eval", *arguments, timeout=240, cwd=cwd)


def data_of(task: str) -> str:
    return "math" if task == "math" else "tool"


@pytest.mark.parametrize("task", TASKS)
def test_the_served_score_is_the_offline_one(served: Served, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    prefill, decode = (str(DEMO / "models" / model) for model in TASKS[task])
    file = str(DEMO / "data" / f"{data_of(task)}.test.jsonl")
    limit = ["--limit", str(QUESTIONS), "--threads", "1", "--json"]
    with pytest.raises(SystemExit):
        main(["eval", file, "--prefill", prefill, "--decode", decode, *limit])
    offline = json.loads(capsys.readouterr().out)
    result = served.results[task]
    (score,) = result["scores"]
    assert (score["correct"], result["questions"]) == (offline["correct"], offline["total"])
    ends = (round(100 * score["low"], 1), round(100 * score["high"], 1))
    assert ends == (offline["low"], offline["high"])


def test_scores_tell_a_tuned_task_from_naive_sharing(served: Served) -> None:
    """Were every answer right, or every one wrong, equal scores would mean little."""
    right = {task: result["scores"][0]["correct"] for task, result in served.results.items()}
    assert min(right["math"], right["tool"]) > 0.9 * QUESTIONS
    assert right["tool-naive"] < 0.1 * QUESTIONS


@pytest.mark.parametrize("task", TASKS)
def test_its_answers_are_the_offline_forwards(served: Served, task: str) -> None:
    """Word for word, where they are wrong too."""
    from transformers import AutoTokenizer

    prefill, decode = (DEMO / "models" / model for model in TASKS[task])
    tokenizer = AutoTokenizer.from_pretrained(decode)
    reference = Reference(prefill, decode)
    examples = read_jsonl(DEMO / "data" / f"{data_of(task)}.test.jsonl")[:QUESTIONS]
    assert [s["doc"]["answer"] for s in served.samples[task]] == [e.answer for e in examples]
    for example, sample in list(zip(examples, served.samples[task], strict=True))[:6]:
        ((text,),) = sample["resps"]
        tokens = tokenizer.encode(text, add_special_tokens=False)
        # ended by the model, unless cut at the length that the benchmark gives
        wanted = tokens if len(tokens) >= MAX_TOKENS else [*tokens, tokenizer.eos_token_id]
        reference.check(encode(tokenizer, example).prompt, wanted)
    reference.require_few_ties()


def test_a_template_rendered_here_is_the_workers(demo: Deployment, served: Served, tmp_path: Path) -> None:
    found = ask(demo, ["math"], 12, tmp_path, "--prompt", "template")
    assert [s["resps"] for s in found.samples["math"]] == [s["resps"] for s in served.samples["math"][:12]]


def test_what_the_router_refuses_is_one_error(demo: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    doc_to_text = "{{ messages[0].content * 200 }}"
    file.write_text(f"include: {BENCHMARKS}/demo_math.yaml\ntask: long\ndoc_to_text: '{doc_to_text}'\n")
    done = sun_eval(f"math={file}", "--served", demo.url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "takes at most" in done.stderr
    assert "context_length_exceeded" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
