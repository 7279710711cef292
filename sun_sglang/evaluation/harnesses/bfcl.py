"""Run BFCL (Berkeley Function-Calling Leaderboard; version 2026.3.23) against the router by its command `bfcl`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sun_sglang.errors import UserError
from sun_sglang.evaluation.benchmark import Benchmark
from sun_sglang.evaluation.endpoint import KEY, Endpoint
from sun_sglang.evaluation.harnesses.external import require_program, run_program
from sun_sglang.evaluation.result import BenchmarkResult, proportion

PROGRAM = "bfcl"
PACKAGE = "bfcl-eval"
_FAILED = "Error during inference"


def split_name(benchmark: Benchmark) -> tuple[str, str]:
    """Return the registered model that sets the prompt format, and the category, of `Qwen/Qwen3-8B-FC:simple_python`.

    Raises:
        UserError: the name has another form.
    """
    model, colon, category = benchmark.name.partition(":")
    if not model or not colon or not category:
        raise UserError(
            f"{benchmark}: must have the form TASK=bfcl:MODEL:CATEGORY, such as "
            "tool=bfcl:Qwen/Qwen3-8B-FC:simple_python; `bfcl models` lists models, `bfcl test-categories` categories"
        )
    return model, category


def commands(benchmark: Benchmark, concurrency: int) -> tuple[list[str], list[str]]:
    """Return two command lines, to generate answers and to score them; the working directory has the model at `./TASK`.

    BFCL's handlers of open models send the model's path as the request's `model`, so the path must be the task's name.
    """
    model, category = split_name(benchmark)
    which = ["--model", model, "--test-category", category]
    asks = ["--skip-server-setup", "--local-model-path", benchmark.task, "--num-threads", str(concurrency)]
    return [PROGRAM, "generate", *which, *asks, "--temperature", "0"], [PROGRAM, "evaluate", *which]


def run_benchmark(
    benchmark: Benchmark, endpoint: Endpoint, directory: Path, model: str, concurrency: int
) -> list[BenchmarkResult]:
    """Run BFCL and return the results from its files.

    Args:
        benchmark: the benchmark.
        endpoint: the router.
        directory: directory for the files of this run.
        model: directory of the task's tokenizer and configuration.
        concurrency: requests in flight.

    Raises:
        UserError: BFCL is missing or fails, or a request failed, which BFCL would count as a wrong answer.
    """
    asks, scores = commands(benchmark, concurrency)
    require_program(PROGRAM, PACKAGE)
    if not Path(model).is_dir():
        raise UserError(f"{benchmark}: BFCL needs the model's files; give their directory with --tokenizer")
    if os.environ.get(KEY):
        # base_oss_handler.py requests /v1/models without the key, and repeats that without end until it gets a 200
        raise UserError(
            f"{benchmark}: BFCL cannot reach a router that requires a key; unset {KEY}, and use a router without keys"
        )
    root = directory.resolve() / f"bfcl-{benchmark.task}-{benchmark.name}".replace("/", "_").replace(":", "-")
    root.mkdir(parents=True, exist_ok=True)
    link = root / benchmark.task
    link.unlink(missing_ok=True)
    link.symlink_to(Path(model).resolve(), target_is_directory=True)
    environment = {"BFCL_PROJECT_ROOT": str(root), "REMOTE_OPENAI_BASE_URL": endpoint.openai}
    began = time.perf_counter()
    run_program(asks, root, environment)
    _require_answers(root, benchmark)
    run_program(scores, root, environment)
    return read(benchmark, root, time.perf_counter() - began)


def read(benchmark: Benchmark, root: Path, seconds: float) -> list[BenchmarkResult]:
    """Return the accuracy of each category, from BFCL's files.

    Args:
        benchmark: the benchmark.
        root: directory of the run.
        seconds: wall-clock seconds of the run.

    Raises:
        UserError: there are no score files, or one is not a score of BFCL.
    """
    results = []
    for file in _files(root / "score", benchmark, "score"):
        category = file.name.removesuffix("_score.json").split("_", 2)[2]
        try:
            header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
            correct, total = int(header["correct_count"]), int(header["total_count"])
        except (ValueError, KeyError, IndexError) as e:
            raise UserError(f"{file}: is not a score of {PROGRAM} ({e})") from e
        results.append(
            BenchmarkResult(
                task=benchmark.task,
                harness="bfcl",
                benchmark=category,
                version=file.name.split("_")[1],
                few_shot=None,
                questions=total,
                seconds=round(seconds, 2),
                scores=(proportion("accuracy", correct, total),),
            )
        )
    if not results:
        raise UserError(f"{root / 'score'}: {PROGRAM} wrote no score")
    return results


def _require_answers(root: Path, benchmark: Benchmark) -> None:
    for file in _files(root / "result", benchmark, "result"):
        answers = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        failed = [a for a in answers if isinstance(a["result"], str) and a["result"].startswith(_FAILED)]
        if failed:
            first = f"{failed[0]['id']}: {failed[0]['result']}"
            raise UserError(f"{benchmark}: {len(failed)} of {len(answers)} requests failed; {first}")


def _files(directory: Path, benchmark: Benchmark, kind: str) -> Iterator[Path]:
    model, _ = split_name(benchmark)
    yield from sorted((directory / model.replace("/", "_")).rglob(f"BFCL_*_{kind}.json"))
