"""One run of `sun bench` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.load.metrics.sessions import SessionMetrics
from sun_sglang.bench.load.metrics.summary import Metrics
from sun_sglang.bench.serving.result import SystemReport
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.cli.display.bench_live import describe_load

_LATENCIES = (
    ("time to first token, ms", "time_to_first_token"),
    ("  from when it was due", "scheduled_time_to_first_token"),
    ("TPOT, ms", "inter_token_latency"),
    ("gaps between chunks, ms", "inter_chunk_latency"),
    ("request latency, ms", "request_latency"),
    ("  from when it was due", "scheduled_request_latency"),
    ("tokens/s for a user", "output_token_throughput_per_user"),
    ("prompt tokens", "input_sequence_length"),
    ("output tokens", "output_sequence_length"),
)


def render_run(system: SystemReport, settings: BenchSettings, run: RunReport) -> RenderableType:
    """Return the tables of one run: latencies, rates, tasks, errors, and what the reader should know."""
    parts: list[RenderableType] = [
        Text(f"{system.name}: {describe_load(settings.workload)}", style="bold"),
        _window(run),
        _latencies(run.total),
        _rates(system, run),
    ]
    if len(run.tasks) > 1:
        parts.append(_tasks(run))
    if run.sessions is not None:
        parts += [_sessions(run.sessions), Text(_session_counts(run.sessions)), _turns(run.sessions)]
    if run.errors:
        parts.append(_errors(run))
    parts.extend(Text(f"note: {note}", style="yellow") for note in run.notes)
    return Group(*parts)


def _window(run: RunReport) -> Text:
    window, counts = run.window, run.counts
    text = Text(
        f"window of {window.seconds:.1f} s after {window.start:.1f} s; {counts.sent:,} requests sent in all, "
        f"{counts.succeeded:,} answered, {counts.failed:,} failed, {counts.cut_off:,} cut off at the end"
    )
    if run.ending is Ending.CUT_SHORT:
        text.append(" (cut short)", style="bold yellow")
    if not run.valid:
        text.append(" (not valid)", style="bold red")
    return text


def _latencies(total: Metrics) -> Table:
    table = Table("", *number_columns("avg", "p50", "p90", "p95", "p99", "max"), box=box.SIMPLE_HEAD)
    for label, name in _LATENCIES:
        found: Distribution | None = getattr(total, name)
        if found is not None:
            numbers = (found.avg, found.p50, found.p90, found.p95, found.p99, found.max)
            table.add_row(label, *map(number_text, numbers))
    return table


def _rates(system: SystemReport, run: RunReport) -> Table:
    table = Table("", *number_columns(""), "", box=box.SIMPLE_HEAD, show_header=False)
    for label, value, unit in _rate_rows(system, run):
        if value is not None:
            table.add_row(label, value, unit)
    return table


def _rate_rows(system: SystemReport, run: RunReport) -> Iterator[tuple[str, str | None, str]]:
    total = run.total
    yield "output token throughput", number_text(total.output_token_throughput), "tokens/s"
    yield "  for each worker", number_text(total.output_token_throughput_per_worker), f"of {system.workers}"
    per_decode = total.output_token_throughput_per_decode_worker
    yield "  for each decode worker", number_text(per_decode), f"of {system.decode_workers}"
    yield "tokens that arrived in the window", number_text(total.arrived_token_throughput), "tokens/s"
    yield "interactivity (1000 / mean TPOT)", number_text(total.interactivity), "tokens/s for a user"
    yield "request throughput", number_text(total.request_throughput), "requests/s"
    # of sessions, only the first request has a time
    is_open = total.scheduled_request_latency is not None and run.sessions is None
    if is_open and total.achieved_ratio is not None:
        yield "achieved / offered", f"{total.achieved_ratio:.1%}", f"of {total.offered_request_count:,} requests"
    if total.goodput is not None and total.good_request_ratio is not None:
        yield (
            "goodput",
            number_text(total.goodput),
            f"requests/s ({total.good_request_ratio:.1%} within the objectives)",
        )
    if total.cache_hit_ratio is not None:
        yield "prompt tokens from a cache", f"{total.cache_hit_ratio:.1%}", ""
    if len(run.tasks) > 1:
        yield "fairness over tasks (Jain)", number_text(run.fairness), "1 is fair"
    client = run.client
    if client.cpu_share is not None and client.lag is not None:
        yield "this client: CPU", f"{client.cpu_share:.0%}", "of a core"
        yield "this client: lag p99", number_text(client.lag.p99), "ms"


def _tasks(run: RunReport) -> Table:
    names = ("mix", "requests\nper s", "tokens\nper s", "TTFT\np50", "ms\np99", "TPOT\np50", "ms\np99", "failed")
    table = Table("task", *number_columns(*names), box=box.SIMPLE_HEAD)
    for name, task in run.tasks.items():
        m = task.metrics
        ttft, tpot = m.time_to_first_token, m.inter_token_latency
        table.add_row(
            name,
            f"{task.offered_share:.1%}" if task.offered_share is not None else "",
            number_text(m.request_throughput),
            number_text(m.output_token_throughput),
            *(number_text(value) for d in (ttft, tpot) for value in ((d.p50, d.p99) if d else (None, None))),
            f"[red]{m.error_request_count:,}[/]" if m.error_request_count else "0",
        )
    return table


def _sessions(sessions: SessionMetrics) -> Table:
    table = Table("sessions", *number_columns("avg", "p50", "p90", "p95", "p99", "max"), box=box.SIMPLE_HEAD)
    latencies = (
        ("latency, s", sessions.session_latency),
        ("  from when it was due", sessions.scheduled_session_latency),
    )
    for label, found in latencies:
        if found is not None:
            numbers = (found.avg, found.p50, found.p90, found.p95, found.p99, found.max)
            table.add_row(label, *(number_text(number / 1000) for number in numbers))
    return table


def _session_counts(sessions: SessionMetrics) -> str:
    counts = [
        f"offered {sessions.offered_session_count:,}",
        f"started {sessions.started_session_count:,} ({number_text(sessions.started_session_rate)} per s)",
        f"completed {sessions.session_count:,} ({number_text(sessions.session_throughput)} per s)",
    ]
    if sessions.error_session_count:
        counts.append(f"ended by a failure {sessions.error_session_count:,}")
    return ", ".join(counts)


def _turns(sessions: SessionMetrics) -> Table:
    names = ("requests", "prompt\ntokens", "from a\ncache", "TTFT\np50", "ms\np95", "latency\np95 ms")
    table = Table("turn", *number_columns(*names), box=box.SIMPLE_HEAD)
    for turn in sessions.turns:
        ttft, prompt, whole = turn.time_to_first_token, turn.input_sequence_length, turn.request_latency
        table.add_row(
            str(turn.turn + 1),
            f"{turn.request_count:,}",
            number_text(prompt.avg) if prompt else None,
            f"{turn.cache_hit_ratio:.1%}" if turn.cache_hit_ratio is not None else None,
            *(number_text(value) for value in ((ttft.p50, ttft.p95) if ttft else (None, None))),
            number_text(whole.p95) if whole else None,
        )
    return table


def _errors(run: RunReport) -> Table:
    table = Table("failed with", *number_columns("requests", "in the window"), "first message", box=box.SIMPLE_HEAD)
    for error in run.errors:
        table.add_row(
            Text(error.kind, style="red"), f"{error.count:,}", f"{error.in_window:,}", Text(error.first_message)
        )
    return table


def number_columns(*names: str) -> Iterator[Column]:
    """Yield columns of numbers."""
    for name in names:
        yield Column(name, justify="right")


def number_text(value: float | None) -> str | None:
    """Return a number with three significant digits, or whole where it is large; None stays None."""
    if value is None:
        return None
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
