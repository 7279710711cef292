"""Render results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from sun_sglang.evaluation.result import BenchmarkResult, Score


def render(results: Sequence[BenchmarkResult]) -> Table:
    """Return a table with one row for each metric; scores of right or wrong answers are in percent."""
    table = Table("task", "benchmark", "metric", "right", "score", "95 % interval")
    for result in results:
        for score in result.scores:
            table.add_row(
                escape(result.task),
                escape(result.benchmark),
                escape(score.metric),
                _right(score, result.questions),
                _value(score),
                _interval(score),
            )
    return table


def _right(score: Score, questions: int) -> str:
    return f"{questions} asked" if score.correct is None else f"{score.correct} of {questions}"


def _value(score: Score) -> str:
    return f"{score.value:.4g}" if score.correct is None else f"{100 * score.value:.1f} %"


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return "none"
    if score.correct is None:
        return f"{score.low:.4g} to {score.high:.4g}"
    return f"{100 * score.low:.1f} to {100 * score.high:.1f}"
