"""The metrics of sessions of agents in one window. `docs/bench.md` explains each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.metrics import latency
from sun_sglang.bench.load.metrics.distribution import Distribution, distribution
from sun_sglang.bench.load.metrics.summary import cached_tokens
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.agents.workflow import Workflow
from sun_sglang.strict import Strict

_MS = 1000.0


class TurnMetrics(Strict):
    """The requests of one turn, over all sessions: those that were completed in the window.

    Attributes:
        turn: number of the turn in its session, from 0.
        request_count: its requests.
        input_sequence_length: prompt tokens, as the server counts them.
        cached_token_count: prompt tokens that the server had in a cache; None where it reports none.
        cache_hit_ratio: `cached_token_count` by the prompt tokens.
        time_to_first_token: from sending to the first token.
        request_latency: from sending to the last token.
    """

    turn: int
    request_count: int
    input_sequence_length: Distribution | None
    cached_token_count: int | None
    cache_hit_ratio: float | None
    time_to_first_token: Distribution | None
    request_latency: Distribution | None


class SessionMetrics(Strict):
    """The metrics of sessions. Rates are per second of the window.

    Latencies are those of the sessions that were completed in the window: whose last answer ended in it, and whose
    answers all arrived whole.

    Attributes:
        session_count: sessions completed in the window.
        error_session_count: sessions that a failed request ended in the window.
        offered_session_count: sessions that were due in the window, or in a closed loop started in it.
        started_session_count: sessions whose first request was sent in the window.
        achieved_ratio: completed by offered sessions; None where none was offered.
        offered_session_rate: offered sessions a second.
        started_session_rate: started sessions a second: the arrival rate that the server had.
        session_throughput: completed sessions a second.
        session_latency: from sending the first request to the last token of the last answer.
        scheduled_session_latency: the same from when the session was due; None in a closed loop.
        stand_in_count: answers of the whole run whose token ids the server did not report. The prompts that follow them
            have random ids in their place.
        turns: each turn, in order.
    """

    session_count: int
    error_session_count: int
    offered_session_count: int
    started_session_count: int
    achieved_ratio: float | None
    offered_session_rate: float
    started_session_rate: float
    session_throughput: float
    session_latency: Distribution | None
    scheduled_session_latency: Distribution | None
    stand_in_count: int
    turns: tuple[TurnMetrics, ...]


@dataclass(frozen=True)
class _Session:
    """The requests of one session that were sent, in order.

    Attributes:
        records: at least one.
        calls: number of requests of a whole session.
    """

    records: Sequence[RequestRecord]
    calls: int

    @property
    def due(self) -> float | None:
        """When its first request was due; None in a closed loop."""
        return self.records[0].due

    @property
    def started(self) -> float:
        """When its first request was sent."""
        return self.records[0].sent

    @property
    def completed(self) -> float | None:
        """When its last answer ended, if all arrived whole; else None."""
        is_whole = len(self.records) == self.calls and all(record.succeeded for record in self.records)
        return self.records[-1].ended if is_whole else None

    @property
    def failed(self) -> float | None:
        """When a request failed; None where none has."""
        return self.records[-1].ended if self.records[-1].failure is not None else None

    def latency(self, start: float | None) -> float | None:
        """Return the milliseconds from a time to the last token of the last answer; None where one is missing."""
        last = self.records[-1].last
        return (last - start) * _MS if last is not None and start is not None else None


def summarise_sessions(
    records: Iterable[RequestRecord], window: Window, workflow: Workflow, *, due: Sequence[float] | None
) -> SessionMetrics:
    """Return the metrics of sessions.

    Args:
        records: all requests of the run, in the order of sending; those of no session are left out.
        window: what was measured; longer than 0.
        workflow: the calls of a session.
        due: when each session was due, also those that were never started: all slots may have been taken. None in a
            closed loop.
    """
    sent = [record for record in records if record.session is not None]
    sessions = _sessions(sent, workflow.calls)
    done = [session for session in sessions if window.holds(session.completed)]
    started = sum(window.holds(session.started) for session in sessions)
    offered = sum(map(window.holds, due)) if due is not None else started
    return SessionMetrics(
        session_count=len(done),
        error_session_count=sum(window.holds(session.failed) for session in sessions),
        offered_session_count=offered,
        started_session_count=started,
        achieved_ratio=len(done) / offered if offered else None,
        offered_session_rate=offered / window.seconds,
        started_session_rate=started / window.seconds,
        session_throughput=len(done) / window.seconds,
        session_latency=distribution((session.latency(session.started) for session in done), "ms"),
        scheduled_session_latency=distribution((session.latency(session.due) for session in done), "ms"),
        stand_in_count=sum(map(_has_stand_in, sent)),
        turns=_turns(sent, window, workflow),
    )


def _sessions(sent: Iterable[RequestRecord], calls: int) -> list[_Session]:
    by_number: dict[int, list[RequestRecord]] = {}
    for record in sent:
        assert record.session is not None
        by_number.setdefault(record.session, []).append(record)
    return [_Session(own, calls) for own in by_number.values()]


def _has_stand_in(record: RequestRecord) -> bool:
    """Return whether the next prompt of the session lacks this answer, for `Session.request` replaces it."""
    return record.succeeded and (record.answer is None or len(record.answer) != record.wanted_tokens)


def _turns(sent: Iterable[RequestRecord], window: Window, workflow: Workflow) -> tuple[TurnMetrics, ...]:
    by_turn: dict[int, list[RequestRecord]] = {}
    for record in sent:
        if record.succeeded and window.holds(record.ended):
            # the calls of a session follow each other in the plan
            by_turn.setdefault(workflow.turn(record.index % workflow.calls), []).append(record)
    return tuple(_turn(turn, by_turn[turn]) for turn in sorted(by_turn))


def _turn(turn: int, done: Sequence[RequestRecord]) -> TurnMetrics:
    cached, prompts = cached_tokens(done), sum(record.prompt_tokens for record in done)
    return TurnMetrics(
        turn=turn,
        request_count=len(done),
        input_sequence_length=distribution((record.prompt_tokens for record in done), "tokens"),
        cached_token_count=cached,
        cache_hit_ratio=cached / prompts if cached is not None and prompts else None,
        time_to_first_token=distribution(map(latency.time_to_first_token, done), "ms"),
        request_latency=distribution(map(latency.request_latency, done), "ms"),
    )
