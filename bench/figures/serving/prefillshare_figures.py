"""Figures 3 and 4 of the PrefillShare paper as tables: emulated workers, the paper's numbers beside them.

The paper prints few of the numbers of its figures; the tables have those of its text (section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from sun_sglang.bench.figures.serving.numbers import NONE, made_by, number, spread_text, table
from sun_sglang.bench.load.workload.settings import WorkloadSettings
from sun_sglang.bench.serving.report.study import quantities as q
from sun_sglang.bench.serving.result import BenchResult, PointReport, read_result

_SHARED, _BASELINE, _ADMISSION = "prefillshare", "isolated", "admission"
_DUE = "sessions.scheduled_session_latency.p95"
TITLES: Mapping[str, str] = MappingProxyType(
    {_SHARED: "PrefillShare 4P/4D", _BASELINE: "4x(1P/1D)", _ADMISSION: "PrefillShare, admission by KV"}
)


class Ratios(NamedTuple):
    """What PrefillShare gains: the baseline's p95 latency by its own, and its throughput by the baseline's.

    Attributes:
        latency: of sessions, from their first request.
        due: the same from the time at which they were due, with the wait for a slot; None where it was not measured.
        throughput: of output tokens.
    """

    latency: float
    due: float | None
    throughput: float


PAPER: Mapping[str, Ratios] = MappingProxyType({"react": Ratios(3.9, None, 3.6), "reflexion": Ratios(4.5, None, 3.9)})


class Measured(NamedTuple):
    """One point of a result."""

    result: BenchResult
    point: PointReport

    @property
    def workload(self) -> WorkloadSettings:
        """The workload of the point."""
        return self.result.settings_of(self.point).workload


class LatencyOverRate:
    """`prefillshare_figure_3.md`: tail latency, throughput and time to first token over the rate of sessions.

    As in the paper, each system has at each rate the limit on concurrent sessions that is best for it.
    """

    name = "prefillshare_figure_3"
    # the results of each table: the highest rate was measured alone, and the last table has longer answers
    tables = (("react", "react_rate_4"), ("reflexion", "reflexion_rate_4"), ("react_64",))
    needs = tuple(f"serving/prefillshare_figure_3_{name}" for names in tables for name in names)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the tables as Markdown and return their file."""
        read = [read_result(results / f"{name}.json") for name in self.needs]
        lines, rest = ["# PrefillShare, figure 3: agents over one context, emulated", ""], iter(read)
        for names in self.tables:
            lines += [*_over_rate([next(rest) for _ in names]), ""]
        return _write(folder / f"{self.name}.md", lines, read)


class HitsOverSessions:
    """`prefillshare_figure_4.md`: cache hits and throughput over the most sessions at a time."""

    name = "prefillshare_figure_4"
    needs: tuple[str, ...] = ("serving/prefillshare_figure_4_react",)

    def draw(self, results: Path, folder: Path) -> Path:
        """Write the table as Markdown and return its file."""
        result = read_result(results / f"{self.needs[0]}.json")
        lines = ["# PrefillShare, figure 4: cache hits over concurrent sessions, emulated", "", *_over_sessions(result)]
        return _write(folder / f"{self.name}.md", [*lines, ""], [result])


def best_limits(results: Sequence[BenchResult], system: str) -> dict[float, Measured]:
    """Return for each rate of sessions the point with the most output tokens of a system; without one it is absent."""
    found: dict[float, Measured] = {}
    for one in (Measured(result, point) for result in results for point in result.points):
        made, rate = number(one.point, system, q.THROUGHPUT.metric), one.workload.request_rate
        assert rate is not None, "sessions arrive at a rate"
        if made is None:
            continue
        before = number(found[rate].point, system, q.THROUGHPUT.metric) if rate in found else None
        if before is None or made.value > before.value:
            found[rate] = one
    return found


def most(results: Sequence[BenchResult]) -> Ratios | None:
    """Return the largest ratios over the rates at which both systems have numbers; None where there is none."""
    found = [ratios for _, ratios in _ratios(results)]
    if not found:
        return None
    due = max((ratios.due for ratios in found if ratios.due is not None), default=None)
    return Ratios(max(r.latency for r in found), due, max(r.throughput for r in found))


def _ratios(results: Sequence[BenchResult]) -> Iterator[tuple[float, Ratios]]:
    shared, baseline = best_limits(results, _SHARED), best_limits(results, _BASELINE)
    for rate in sorted(shared.keys() & baseline.keys()):
        latency, tokens = (
            number(shared[rate].point, _SHARED, metric)
            for metric in (q.SESSION_LATENCY_P95.metric, q.THROUGHPUT.metric)
        )
        slower, fewer = (
            number(baseline[rate].point, _BASELINE, metric)
            for metric in (q.SESSION_LATENCY_P95.metric, q.THROUGHPUT.metric)
        )
        due, later = number(shared[rate].point, _SHARED, _DUE), number(baseline[rate].point, _BASELINE, _DUE)
        if latency and tokens and slower and fewer and latency.value and fewer.value:
            waited = later.value / due.value if due and later and due.value else None
            yield rate, Ratios(slower.value / latency.value, waited, tokens.value / fewer.value)


def _over_rate(results: Sequence[BenchResult]) -> list[str]:
    by_rate = dict(_ratios(results))
    header = [
        "sessions/s",
        "",
        "at most",
        "started/s",
        "tokens/s",
        "session p95, s",
        "from when due, s",
        "request p95, s",
    ]
    header += ["TTFT p95, ms", "from the cache", "p95: baseline by it", "from when due", "tokens/s: it by baseline"]
    titles = _titles(results[0])
    best = {system: best_limits(results, system) for system in titles}
    rows = []
    for rate in sorted({rate for points in best.values() for rate in points}):
        for system, title in titles.items():
            one = best[system].get(rate)
            if one is not None:
                compared = by_rate.get(rate) if system == _SHARED else None
                rows.append([f"{rate:g}", title, *_cells(one, system), *_compared(compared)])
    return [f"## {_load(results[0].settings.workload)}", "", *table(header, rows), "", *_beside_the_paper(results)]


def _cells(one: Measured, system: str) -> list[str]:
    limit, point = one.workload.concurrency, one.point
    return [
        NONE if limit is None else str(limit),
        spread_text(number(point, system, q.SESSION_RATE.metric)),
        spread_text(number(point, system, q.THROUGHPUT.metric)),
        _seconds(point, system, q.SESSION_LATENCY_P95.metric),
        _seconds(point, system, _DUE),
        _seconds(point, system, q.LATENCY_P95.metric),
        spread_text(number(point, system, q.TTFT_P95.metric)),
        _share(point, system),
    ]


def _compared(ratios: Ratios | None) -> list[str]:
    return [NONE] * 3 if ratios is None else [NONE if r is None else f"{q.number_text(r)}x" for r in ratios]


def _beside_the_paper(results: Sequence[BenchResult]) -> list[str]:
    ours, paper = most(results), PAPER[results[0].settings.workload.workload]
    if ours is None:
        return ["No rate was measured with both systems."]
    due = "" if ours.due is None else f" ({q.number_text(ours.due)}x from when they were due)"
    return [
        f"At most {q.number_text(ours.latency)}x lower p95 latency of sessions{due} and "
        f"{q.number_text(ours.throughput)}x the throughput; the paper: up to {paper.latency:g}x lower p95 latency and "
        f"{paper.throughput:g}x the throughput."
    ]


def _over_sessions(result: BenchResult) -> list[str]:
    header, titles = ["sessions at most"], _titles(result)
    for title in titles.values():
        header += [f"{title}: from the cache", "tokens/s", "session p95, s", "TTFT p95, ms"]
    rows = []
    for point in sorted(result.points, key=lambda point: result.settings_of(point).workload.concurrency or 0):
        row = [str(result.settings_of(point).workload.concurrency)]
        for system in titles:
            row += [
                _share(point, system),
                spread_text(number(point, system, q.THROUGHPUT.metric)),
                _seconds(point, system, q.SESSION_LATENCY_P95.metric),
                spread_text(number(point, system, q.TTFT_P95.metric)),
            ]
        rows.append(row)
    paper = (
        "The paper: the baseline's hit ratio peaks at 60 % near 40 sessions and then drops sharply, PrefillShare's is "
        "nearly 89 % throughout, and its throughput grows until about 110 sessions and then declines, by the staging "
        "of KV in the memory of the CPU (appendix B.2), which SGLang's decode workers do not do."
    )
    return [f"## {_load(result.settings.workload)}", "", *table(header, rows), "", paper]


def _titles(result: BenchResult) -> dict[str, str]:
    """Return the titles of the systems that a result has, by name."""
    return {name: title for name, title in TITLES.items() if any(system.name == name for system in result.systems)}


def _share(point: PointReport, system: str) -> str:
    found = number(point, system, q.HITS.metric)
    return NONE if found is None else q.HITS.text(found.value)


def _seconds(point: PointReport, system: str, metric: str) -> str:
    """Return a latency, which results have in milliseconds, in seconds."""
    found = number(point, system, metric)
    return NONE if found is None else q.number_text(found.value / 1000)


def _load(workload: WorkloadSettings) -> str:
    lengths = (
        f"{workload.agent_initial_tokens} + {workload.agent_output_tokens} + {workload.agent_appended_tokens}"
        if workload.agent_initial_tokens
        else "the pattern's"
    )
    return f"{workload.workload}, tokens {lengths} (first prompt, each answer, each addition)"


def _write(file: Path, lines: Sequence[str], results: Sequence[BenchResult]) -> Path:
    file.write_text("\n".join([*lines, *(f"- {made_by(result)}" for result in results), ""]), encoding="utf-8")
    return file
