"""The numbers of a system over its repetitions, and the ratios of two systems. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.interval import Interval, ratio_interval
from sun_sglang.bench.load.metrics.repeated import Repeated, repeated
from sun_sglang.bench.serving.result import SearchReport, SystemPoint
from sun_sglang.bench.serving.run_report import RunReport

MAX_RATE = "max_rate"
"""The metric of a search."""

FAIRNESS = "fairness"

_NUMBERS = (
    "output_token_throughput",
    "output_token_throughput_per_worker",
    "output_token_throughput_per_decode_worker",
    "arrived_token_throughput",
    "total_token_throughput",
    "request_throughput",
    "interactivity",
    "achieved_ratio",
    "goodput",
    "good_request_ratio",
    "cache_hit_ratio",
)
_LATENCIES = (
    "time_to_first_token",
    "scheduled_time_to_first_token",
    "inter_token_latency",
    "inter_chunk_latency",
    "request_latency",
    "scheduled_request_latency",
)
_SESSIONS = "sessions"
_OF_THE_RUN = frozenset({FAIRNESS, _SESSIONS, "achieved_ratio"})
_OF_SESSIONS = ("session_throughput", "started_session_rate")
_LATENCIES_OF_SESSIONS = ("session_latency", "scheduled_session_latency")
_PARTS = ("avg", "p50", "p90", "p95", "p99")
METRICS = (
    *_NUMBERS,
    *(f"{name}.{part}" for name, part in product(_LATENCIES, _PARTS)),
    *(f"{_SESSIONS}.{name}" for name in _OF_SESSIONS),
    *(f"{_SESSIONS}.{name}.{part}" for name, part in product(_LATENCIES_OF_SESSIONS, _PARTS)),
    FAIRNESS,
)
"""The metrics of a run that are summarised."""


def metric_of(run: RunReport, metric: str) -> float | None:
    """Return a number of a run; None where the run does not have it.

    Args:
        run: the run.
        metric: its path in `total`, such as `time_to_first_token.p50`; or in the run, such as `fairness` and
            `sessions.session_latency.p95`. `achieved_ratio` is that of sessions where the run has these.
    """
    found: object = run if metric.partition(".")[0] in _OF_THE_RUN else run.total
    for name in metric.split("."):
        found = getattr(found, name) if found is not None else None
    assert found is None or isinstance(found, int | float), f"`{metric}` is no number"
    return found


def summarise_repetitions(runs: Sequence[RunReport], searches: Sequence[SearchReport]) -> dict[str, Repeated]:
    """Return the numbers of one system at one point over its repetitions.

    Args:
        runs: its runs. Those that are not valid are left out, and those that were cut short where one was not.
        searches: its searches; those that were stopped are left out.
    """
    values = _values(runs, searches)
    return {metric: repeated(list(found.values())) for metric, found in values.items()}


def ratios_of(first: SystemPoint, other: SystemPoint) -> dict[str, Interval]:
    """Return the numbers of one system by those of another, over the repetitions that both have.

    A number that is 0 in one of the other's repetitions has no ratio.
    """
    mine, theirs = _values(first.runs, first.searches), _values(other.runs, other.searches)
    ratios = {}
    for metric in mine:
        both = sorted(mine[metric].keys() & theirs.get(metric, {}).keys())
        baseline = [theirs[metric][repetition] for repetition in both]
        if baseline and min(baseline) > 0:
            ratios[metric] = ratio_interval([mine[metric][repetition] for repetition in both], baseline)
    return ratios


def _values(runs: Sequence[RunReport], searches: Sequence[SearchReport]) -> Mapping[str, dict[int, float]]:
    """Return the numbers by metric and repetition; a metric that no repetition has is absent."""
    usable = [run for run in runs if run.valid]
    usable = [run for run in usable if run.ending is Ending.COMPLETE] or usable
    found: dict[str, dict[int, float]] = {}
    for metric in METRICS:
        for run in usable:
            if (value := metric_of(run, metric)) is not None:
                found.setdefault(metric, {})[run.repetition] = value
    for search in searches:
        if search.complete and search.max_rate is not None:
            found.setdefault(MAX_RATE, {})[search.repetition] = search.max_rate
    return found
