"""Run EvalPlus (HumanEval+, MBPP+; version 0.3.1) against the router by its command `evalplus.evaluate`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from sun_sglang.errors import UserError
from sun_sglang.evaluation.benchmark import Benchmark
from sun_sglang.evaluation.endpoint import KEY, Endpoint
from sun_sglang.evaluation.harnesses.external import require_program, run_program
from sun_sglang.evaluation.result import BenchmarkResult, proportion

PROGRAM = "evalplus.evaluate"
PACKAGE = "evalplus"
_DATASETS = ("humaneval", "mbpp")
_PASS = "pass"


def command(benchmark: Benchmark, endpoint: Endpoint, root: Path) -> list[str]:
    """Return the command line: greedy, through the OpenAI chat API.

    Args:
        benchmark: the benchmark.
        endpoint: the router.
        root: directory for the results.
    """
    return [
        PROGRAM,
        *("--model", benchmark.task),
        *("--dataset", benchmark.name),
        *("--backend", "openai"),
        *("--base-url", endpoint.openai),
        *("--root", str(root)),
        "--greedy",
    ]


def run_benchmark(benchmark: Benchmark, endpoint: Endpoint, directory: Path, *, unsafe_code: bool) -> BenchmarkResult:
    """Run EvalPlus and return the result from its files.

    Args:
        benchmark: the benchmark.
        endpoint: the router.
        directory: directory for the files of this run.
        unsafe_code: allow EvalPlus to run code that the model wrote.

    Raises:
        UserError: there is no such data set, EvalPlus is missing or fails, or `unsafe_code` is false.
    """
    if benchmark.name not in _DATASETS:
        raise UserError(f"{benchmark}: EvalPlus has {' and '.join(_DATASETS)}, not `{benchmark.name}`")
    require_program(PROGRAM, PACKAGE)
    if not unsafe_code:
        raise UserError(f"{benchmark}: EvalPlus runs code that the model wrote; allow it with --run-unsafe-code")
    root = directory.resolve() / "evalplus"
    root.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    run_program(command(benchmark, endpoint, root), root, {KEY: os.environ.get(KEY, "none")})
    return read(benchmark, root, time.perf_counter() - began)


def read(benchmark: Benchmark, root: Path, seconds: float) -> BenchmarkResult:
    """Return Pass@1 of the base tests, and of base and added tests together, from EvalPlus's file.

    Args:
        benchmark: the benchmark.
        root: directory of the results.
        seconds: wall-clock seconds of the run.

    Raises:
        UserError: the file is missing or is not a result of EvalPlus.
    """
    # evalplus/codegen.py names it after the model; --greedy makes the temperature 0.0
    file = root / benchmark.name / f"{benchmark.task}_openai_temp_0.0_eval_results.json"
    try:
        answers: dict[str, Any] = json.loads(file.read_bytes())["eval"]
        base = sum(tries[0]["base_status"] == _PASS for tries in answers.values())
        plus = sum(tries[0]["base_status"] == tries[0]["plus_status"] == _PASS for tries in answers.values())
    except (OSError, ValueError, KeyError, IndexError, TypeError) as e:
        raise UserError(f"{file}: is missing, or is not a result of {PROGRAM} ({e})") from e
    if not answers:
        raise UserError(f"{file}: has no answers")
    return BenchmarkResult(
        task=benchmark.task,
        harness="evalplus",
        benchmark=benchmark.name,
        version=None,
        few_shot=None,
        questions=len(answers),
        seconds=round(seconds, 2),
        scores=(proportion("pass@1, base tests", base, len(answers)), proportion("pass@1", plus, len(answers))),
    )
