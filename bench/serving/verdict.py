"""Whether the numbers of a run may be used, and what their reader should know. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.metrics.sessions import SessionMetrics
from sun_sglang.bench.load.metrics.summary import Metrics
from sun_sglang.bench.serving.run_report import ClientReport

_MOST_CPU = 0.9
_REACHED = 0.9
# many prompts of random tokens share their first one or two
_MOST_CHANCE_HITS = 4


def problems_of(stop: StopSignal, client: ClientReport, total: Metrics, *, max_lag: float) -> tuple[str, ...]:
    """Return why a run is not valid; nothing where it is.

    A run that the user cut short is valid for the time that it ran.

    Args:
        stop: how it ended.
        client: the load of the client.
        total: its metrics.
        max_lag: most milliseconds by which the client may be late (99th percentile).
    """
    problems = []
    if stop.ending in (Ending.CLIENT_LATE, Ending.TARGET_FAILED):
        problems.append(stop.reason)
    elif client.lag is not None and client.lag.p99 > max_lag:
        problems.append(
            f"this process was late: p99 {client.lag.p99:.1f} ms, longest {client.lag.max:.1f} ms, allowed "
            f"{max_lag:g} ms (--max-client-lag); send less, or from a machine with free cores"
        )
    if client.cpu_share is not None and client.cpu_share > _MOST_CPU:
        problems.append(
            f"this process used {client.cpu_share:.0%} of a core, over {_MOST_CPU:.0%}: its times are not the "
            "server's; send less"
        )
    if total.request_count == 0 and stop.ending is not Ending.TARGET_FAILED:
        problems.append("no request was completed in the window; make --benchmark-duration longer than an answer takes")
    return tuple(problems)


def notes_of(
    total: Metrics, *, open_loop: bool, prompts_differ: bool, sessions: SessionMetrics | None = None
) -> tuple[str, ...]:
    """Return what a reader of the numbers should know.

    Args:
        total: the metrics of a run.
        open_loop: whether requests had times, so that a target can fall behind.
        prompts_differ: whether no two prompts of the run share a prefix, so that a cache hit is of an earlier run.
        sessions: the metrics of its sessions; None where it has none. Only the first request of a session is due at a
            time, so the share that was reached is that of sessions.
    """
    notes: list[str] = []
    if sessions is not None:
        notes += _notes_of_sessions(sessions, open_loop=open_loop)
    elif open_loop and total.achieved_ratio is not None and total.achieved_ratio < _REACHED:
        notes.append(
            f"the load was not reached: {total.request_count} of the {total.offered_request_count} requests that were "
            f"due in the window ({total.achieved_ratio:.0%}) were completed in it; the target falls behind, and "
            "latencies grow with the window, or the warm-up is shorter than an answer takes"
        )
    cached, ratio = total.cached_token_count or 0, total.cache_hit_ratio
    if prompts_differ and ratio is not None and cached > _MOST_CHANCE_HITS * total.request_count:
        notes.append(
            f"{ratio:.0%} of the prompt tokens were in a cache, although no two prompts of this run share more than "
            "one or two tokens: an earlier run with this seed filled it; give another --prompt-seed"
        )
    if total.error_request_count:
        ended = total.error_request_count + total.request_count
        notes.append(f"{total.error_request_count} of {ended} requests that ended in the window failed")
    return tuple(notes)


def _notes_of_sessions(sessions: SessionMetrics, *, open_loop: bool) -> Iterator[str]:
    reached = sessions.achieved_ratio
    if open_loop and reached is not None and reached < _REACHED:
        yield (
            f"the load was not reached: {sessions.session_count} sessions were completed in the window, and "
            f"{sessions.offered_session_count} were due in it ({reached:.0%}); the target falls behind, and latencies "
            "grow with the window, or the warm-up is shorter than a session takes"
        )
    if sessions.stand_in_count:
        yield (
            f"the server did not report the token ids of {sessions.stand_in_count} answers: the prompts that follow "
            "them have random ids of the same number in their place"
        )
