"""What an evaluation found, for every harness alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from pydantic import BaseModel, ConfigDict

from sun_sglang.evaluation.intervals import normal, wilson


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Frozen):
    """One metric of one benchmark.

    Attributes:
        metric: its name, with the filter that chose the answer where there is one: `exact_match,strict-match`.
        value: the mean over the questions; from 0 to 1 for what is right or wrong.
        correct: right answers, where each question is right or wrong; else None.
        stderr: standard error of the mean; None where the harness gives none.
        low: lower end of the 95 % interval; None without a standard error.
        high: its upper end.
        interval: `wilson`, `normal` or `none`.
    """

    metric: str
    value: float
    correct: int | None
    stderr: float | None
    low: float | None
    high: float | None
    interval: str


class BenchmarkResult(_Frozen):
    """One task on one benchmark.

    Attributes:
        task: the model name at the router.
        harness: `lm-eval`, `evalplus` or `bfcl`.
        benchmark: its name there.
        version: the benchmark's own, as the harness says; None where it says none.
        few_shot: solved questions in each prompt; None where the harness decides.
        questions: how many were asked.
        seconds: wall clock.
        scores: one for each metric.
    """

    task: str
    harness: str
    benchmark: str
    version: str | None
    few_shot: int | None
    questions: int
    seconds: float
    scores: tuple[Score, ...]


class EvaluationReport(_Frozen):
    """All of one `sun eval --served`.

    Attributes:
        command: what was typed.
        date: when it began, UTC, ISO 8601.
        versions: of this package, of Python, and of the harnesses used.
        settings: the options that decide about scores.
        results: one for each pair of a task and a benchmark.
    """

    command: str
    date: str
    versions: dict[str, str]
    settings: dict[str, Any]
    results: tuple[BenchmarkResult, ...]


def proportion(metric: str, correct: int, total: int) -> Score:
    """The score of questions that are each right or wrong, with Wilson's interval."""
    p = correct / total
    low, high = wilson(correct, total)
    # as lm-eval computes it: the sample's standard deviation over the root of the count
    stderr = sqrt(p * (1 - p) / (total - 1)) if total > 1 else None
    return Score(metric=metric, value=p, correct=correct, stderr=stderr, low=low, high=high, interval="wilson")


def score(metric: str, values: Sequence[float], mean: float, stderr: float | None) -> Score:
    """The score of a metric from each question's value, or from its mean where the values are not to be had."""
    if values and all(value in (0, 1) for value in values):
        return proportion(metric, round(sum(values)), len(values))
    if stderr is None:
        return Score(metric=metric, value=mean, correct=None, stderr=None, low=None, high=None, interval="none")
    low, high = normal(mean, stderr)
    return Score(metric=metric, value=mean, correct=None, stderr=stderr, low=low, high=high, interval="normal")
