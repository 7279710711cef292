"""Run EleutherAI's lm-eval (version 0.4.13) against the router through its Python API, `lm_eval.evaluate`.

`simple_evaluate` is not used: it spends seconds on a description of the machine after each benchmark.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sun_sglang.cpu import define_torchvision_schemas
from sun_sglang.errors import UserError
from sun_sglang.evaluation.benchmark import Benchmark
from sun_sglang.evaluation.endpoint import Endpoint
from sun_sglang.evaluation.result import BenchmarkResult, score

Prompt = Literal["messages", "template", "plain"]
# lm-eval truncates a longer prompt on the left without a message; the router refuses it with one
_UNCUT = 1 << 31
# lm_eval/defaults.py
_FEW_SHOT_SEED = 1234
# a warning about custom_dataset in every run
_NOISE = "Custom kwargs can be passed"


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation.

    Attributes:
        prompt: `messages`: chat completions; the worker renders its template. `template`: completions of token ids that
            are rendered here, for benchmarks that begin the answer. `plain`: completions of text without a template.
        few_shot: solved questions in each prompt; None for the benchmark's own number.
        limit: number of questions, from the first; None for all.
        concurrency: requests in flight.
        max_tokens: most tokens of an answer, where the benchmark sets no limit.
        timeout: seconds for one answer.
        unsafe_code: allow a benchmark to run code that the model wrote.
    """

    prompt: Prompt = "messages"
    few_shot: int | None = None
    limit: int | None = None
    concurrency: int = 32
    max_tokens: int = 512
    timeout: int = 300
    unsafe_code: bool = False


@dataclass(frozen=True)
class LmEvalOutcome:
    """The results of lm-eval for one name, which may be a group of benchmarks.

    Attributes:
        results: one result for each benchmark.
        samples: every question, with prompt, answers and scores.
        warnings: lm-eval's warnings, and how often each occurred.
    """

    results: tuple[BenchmarkResult, ...]
    samples: tuple[dict[str, Any], ...]
    warnings: Mapping[str, int]


def require_lm_eval() -> None:
    """Check that lm-eval is installed.

    Raises:
        UserError: lm-eval is not installed.
    """
    if find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed; pip install 'sun-sglang[eval]'")


def new_tasks(names: list[str], include: Path | None) -> Any:
    """Return lm-eval's index of benchmarks.

    lm-eval's own benchmarks are thousands of files and take seconds to read, so they are left out where all names are
    files.

    Args:
        names: names of benchmarks, or YAML files.
        include: a directory of YAML files to add.

    Raises:
        UserError: a file or the directory does not exist.
    """
    # a benchmark may import evaluate, which imports transformers, which imports torchvision
    define_torchvision_schemas()
    from lm_eval.tasks import TaskManager

    if include is not None and not include.is_dir():
        raise UserError(f"--include-path {include}: is not a directory")
    for name in names:
        if _is_file(name) and not Path(name).is_file():
            raise UserError(f"{name}: not found")
    own = not all(_is_file(name) for name in names)
    with _quiet():
        return TaskManager(include_path=str(include) if include else None, include_defaults=own)


def run_benchmark(
    benchmark: Benchmark, endpoint: Endpoint, settings: EvaluationSettings, tasks: Any, tokenizer: str | None = None
) -> LmEvalOutcome:
    """Send the questions of a benchmark to a task, greedily, and return the scores of the answers.

    Args:
        benchmark: the benchmark.
        endpoint: the router.
        settings: settings of the questions.
        tasks: lm-eval's index, from `new_tasks`.
        tokenizer: directory or Hugging Face id; required for the prompt `template`.

    Raises:
        UserError: lm-eval has no such benchmark, cannot load or run it, or a request fails.
    """
    with _quiet() as warnings:
        loaded = _load(benchmark, tasks, settings)
        began = time.perf_counter()
        found = _evaluate(benchmark, endpoint, settings, tokenizer, loaded, warnings)
        seconds = time.perf_counter() - began
    samples = [{"task": benchmark.task, "benchmark": n, **s} for n in loaded for s in found["samples"][n]]
    results = tuple(_result(benchmark.task, name, found, seconds) for name in loaded)
    return LmEvalOutcome(results, tuple(samples), {w: n for w, n in warnings.items() if _NOISE not in w})


def _evaluate(
    benchmark: Benchmark,
    endpoint: Endpoint,
    settings: EvaluationSettings,
    tokenizer: str | None,
    loaded: dict[str, Any],
    warnings: Mapping[str, int],
) -> Any:
    from lm_eval import evaluate

    try:
        return evaluate(
            lm=_model(benchmark.task, endpoint, settings, tokenizer),
            task_dict={"tasks": loaded},
            limit=settings.limit,
            apply_chat_template=settings.prompt != "plain",
            fewshot_as_multiturn=settings.prompt != "plain",
            confirm_run_unsafe_code=settings.unsafe_code,
        )
    except Exception as e:  # any exception of a benchmark's code, the transport or lm-eval
        why = _why(e, warnings)
    # The garbage collector would print the failure of every other request. The one error is therefore raised without
    # its cause, and the failures are collected here, while nothing is printed.
    gc.collect()
    raise UserError(f"{benchmark}: lm-eval failed: {why}")


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _load(benchmark: Benchmark, tasks: Any, settings: EvaluationSettings) -> dict[str, Any]:
    name = benchmark.name
    if not _is_file(name) and name not in tasks.all_tasks:
        raise UserError(f"{benchmark}: lm-eval has no benchmark `{name}`; `lm-eval ls tasks` lists them")
    if settings.unsafe_code:
        # the switch of the library `evaluate`, which reads it when the benchmark's code is imported
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    try:
        loaded: dict[str, Any] = tasks.load([name])["tasks"]
    except Exception as e:  # the file's own code, or a download
        if "HF_ALLOW_CODE_EVAL" in str(e):
            raise UserError(f"{benchmark}: runs code that the model wrote; allow it with --run-unsafe-code") from e
        raise UserError(f"{benchmark}: lm-eval cannot load it: {_one_line(e)}") from e
    for each, task in loaded.items():
        _set_up(f"{benchmark}: `{each}`", task, settings)
    return loaded


def _set_up(where: str, task: Any, settings: EvaluationSettings) -> None:
    """Check a benchmark, and set on it what `simple_evaluate` would set."""
    if task.get_config("output_type") != "generate_until":
        raise UserError(
            f"{where} compares likelihoods of given answers, which only the prefill module computes; "
            "choose a benchmark that generates"
        )
    if settings.prompt == "messages" and task.get_config("gen_prefix"):
        # the worker would end the begun answer and start another
        raise UserError(f"{where} begins the answer, which chat completions cannot send; add --prompt template")
    few_shot = task.get_config("num_fewshot")
    if settings.few_shot and few_shot == 0:
        raise UserError(f"{where} has no solved questions; remove --few-shot")
    task.set_config("num_fewshot", few_shot or 0 if settings.few_shot is None else settings.few_shot)
    task.set_config("generation_kwargs", {"do_sample": False, "temperature": 0.0}, update=True)
    task.set_fewshot_seed(seed=_FEW_SHOT_SEED)


def _model(task: str, endpoint: Endpoint, settings: EvaluationSettings, tokenizer: str | None) -> Any:
    """Return lm-eval's client of the OpenAI API."""
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    client = LocalChatCompletion if settings.prompt == "messages" else LocalCompletionsAPI
    return client(**_client_settings(task, endpoint, settings, tokenizer))


def _client_settings(
    task: str, endpoint: Endpoint, settings: EvaluationSettings, tokenizer: str | None
) -> dict[str, Any]:
    path = "chat/completions" if settings.prompt == "messages" else "completions"
    known: dict[str, Any] = {"tokenizer_backend": "none", "tokenized_requests": False}
    if settings.prompt == "template":
        assert tokenizer is not None
        known = {"tokenizer_backend": "huggingface", "tokenizer": tokenizer, "tokenized_requests": True}
    return {
        "model": task,
        "base_url": f"{endpoint.openai}/{path}",
        "num_concurrent": settings.concurrency,
        # the router retries where a retry is safe
        "max_retries": 1,
        "max_gen_toks": settings.max_tokens,
        "max_length": _UNCUT,
        "timeout": settings.timeout,
        **known,
    }


def _result(task: str, name: str, found: Any, seconds: float) -> BenchmarkResult:
    metrics, samples = found["results"][name], found["samples"][name]
    scores = []
    for key, mean in metrics.items():
        metric, comma, chosen_by = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        stderr = metrics.get(f"{metric}_stderr,{chosen_by}")
        values = [sample[metric] for sample in samples if sample["filter"] == chosen_by and metric in sample]
        shown = metric if chosen_by == "none" else key
        scores.append(score(shown, values, float(mean), float(stderr) if isinstance(stderr, int | float) else None))
    version = found["versions"].get(name)
    return BenchmarkResult(
        task=task,
        harness="lm-eval",
        benchmark=name,
        version=None if version is None else str(version),
        few_shot=found["n-shot"].get(name),
        questions=found["n-samples"][name]["effective"],
        seconds=round(seconds, 2),
        scores=tuple(scores),
    )


class _Collector(logging.Handler):
    """Counts messages instead of showing each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages[record.getMessage()] += 1


@contextmanager
def _quiet() -> Iterator[Counter[str]]:
    """Keep the log of lm-eval and of its event loop off the terminal, and count the warnings."""
    collector, loggers = _Collector(), [logging.getLogger(name) for name in ("lm_eval", "asyncio")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(collector)
        logger.propagate = False
    try:
        yield collector.messages
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(collector)


def _why(error: Exception, warnings: Mapping[str, int]) -> str:
    """Return the server's message where there is one: lm-eval logs it, and does not raise it."""
    refused = [message for message in warnings if message.startswith("API request failed")]
    return refused[0].removesuffix(" Retrying...") if refused else _one_line(error)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
