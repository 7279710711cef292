"""The results of an evaluation, in one format for every harness."""

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
        metric: name of the metric, with the filter that selected the answer, if any: `exact_match,strict-match`.
        value: mean over the questions; from 0 to 1 where each question is right or wrong.
        correct: number of right answers, where each question is right or wrong; else None.
        stderr: standard error of the mean; None where the harness reports none.
        low: lower end of the 95 % interval; None without a standard error.
        high: upper end of the 95 % interval; None without a standard error.
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
    """The result of one task on one benchmark.

    Attributes:
        task: model name at the router.
        harness: `lm-eval`, `evalplus` or `bfcl`.
        benchmark: name of the benchmark in the harness.
        version: version of the benchmark, as the harness reports it; None where it reports none.
        few_shot: number of solved questions in each prompt; None where the harness decides.
        questions: number of questions.
        seconds: wall-clock seconds.
        scores: one score for each metric.
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
    """The report of one `sun eval --served`.

    Attributes:
        command: the command line.
        date: time of the start, UTC, ISO 8601.
        versions: versions of this package, of Python, and of the harnesses.
        settings: the options that can change scores.
        results: one result for each pair of a task and a benchmark.
    """

    command: str
    date: str
    versions: dict[str, str]
    settings: dict[str, Any]
    results: tuple[BenchmarkResult, ...]


def proportion(metric: str, correct: int, total: int) -> Score:
    """Return the score of questions that are each right or wrong, with Wilson's interval.

    Args:
        metric: name of the metric.
        correct: number of right answers.
        total: number of questions.
    """
    p = correct / total
    low, high = wilson(correct, total)
    # as lm-eval computes it: the sample's standard deviation over the root of the count
    stderr = sqrt(p * (1 - p) / (total - 1)) if total > 1 else None
    return Score(metric=metric, value=p, correct=correct, stderr=stderr, low=low, high=high, interval="wilson")


def score(metric: str, values: Sequence[float], mean: float, stderr: float | None) -> Score:
    """Return the score of a metric from the value of each question, or from the mean where there are no such values.

    Args:
        metric: name of the metric.
        values: value of each question; empty where the harness reports none.
        mean: mean over the questions.
        stderr: standard error of the mean; None where unknown.
    """
    if values and all(value in (0, 1) for value in values):
        return proportion(metric, round(sum(values)), len(values))
    if stderr is None:
        return Score(metric=metric, value=mean, correct=None, stderr=None, low=None, high=None, interval="none")
    low, high = normal(mean, stderr)
    return Score(metric=metric, value=mean, correct=None, stderr=stderr, low=low, high=high, interval="normal")
