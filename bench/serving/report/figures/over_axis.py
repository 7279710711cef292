"""Figures with lines over one setting: skew, load, and sessions."""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.bench.serving.report.figures.figure import Figure, Row
from sun_sglang.bench.serving.report.figures.slices import Slice, limited, panel, slices
from sun_sglang.bench.serving.report.study.quantities import (
    HITS,
    INTERACTIVITY,
    LATENCY_P95,
    SESSION_LATENCY_P95,
    THROUGHPUT,
    TTFT_P95,
    Quantity,
)
from sun_sglang.bench.serving.report.study.study import Study


def over_skew(study: Study) -> Figure:
    """Return throughput and interactivity over the skew of the tasks' popularity."""
    rows, left_out = _rows(study, slices(study.points, "zipf"), (THROUGHPUT, INTERACTIVITY))
    return Figure(
        "skew",
        "Throughput and interactivity over skew",
        "The further to the right, the more of the requests are for the most popular task. As figure 4 of the SUN "
        "paper, where the system that shares its decode workers stays level, and the one with decode workers for each "
        "task falls: those of the popular task are busy, and the others idle.",
        rows,
        "" if rows else "It needs two or more values of --zipf.",
        left_out,
    )


def over_load(study: Study) -> Figure:
    """Return tail latency and throughput over the load: of sessions, where the points are of agents."""
    found = [one for axis in ("request_rate", "concurrency") for one in slices(study.points, axis)]
    rows, left_out = _rows(study, found, (SESSION_LATENCY_P95, LATENCY_P95, THROUGHPUT, TTFT_P95))
    return Figure(
        "load",
        "Tail latency over load",
        "The latency that 5 % of the sessions of agents exceed, that 5 % of the requests exceed, the throughput, and "
        "the time to the first token that 5 % exceed. A system is saturated where its latency rises steeply and its "
        "throughput no longer does. As figure 3 of the PrefillShare paper.",
        rows,
        "" if rows else "It needs two or more values of --request-rate or --concurrency.",
        left_out,
    )


def over_sessions(study: Study) -> Figure:
    """Return cache hits and throughput over the number of sessions."""
    sessions = [point for point in study.points if point.workload != "requests"]
    rows, left_out = _rows(study, slices(sessions, "concurrency"), (HITS, THROUGHPUT))
    if rows:
        missing = ""
    elif not sessions:
        missing = "It needs sessions of agents: --workload react or reflexion."
    else:
        missing = "It needs two or more values of --concurrency, and servers that report cached tokens."
    return Figure(
        "sessions",
        "Cache hits over sessions",
        "The share of the prompts' tokens that a prefix cache had, and the throughput, over the most sessions at a "
        "time. As figure 4 of the PrefillShare paper, where the system that keeps one copy of a session's context "
        "keeps its hits.",
        rows,
        missing,
        left_out,
    )


def _rows(study: Study, found: Sequence[Slice], quantities: Sequence[Quantity]) -> tuple[tuple[Row, ...], int]:
    rows = []
    for one in found:
        panels = [panel(study, one, quantity) for quantity in quantities]
        rows.append(Row(one.label(study.points), tuple(drawn for drawn in panels if drawn is not None)))
    return limited(rows)
