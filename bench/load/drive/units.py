"""What a loop runs: one request, or a session of several in turn, such as the calls of agents over one context."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sun_sglang.bench.load.client.endpoint import Prepared
from sun_sglang.bench.load.drive.progress import Send
from sun_sglang.bench.load.workload.agents.session import Session
from sun_sglang.bench.load.workload.planned import PlannedRequest

Prepare = Callable[[PlannedRequest], Prepared]
"""Makes the request that is sent of one that is planned."""


class Unit(NamedTuple):
    """Something to run.

    Attributes:
        due: seconds after the start of the run; None in a closed loop.
        run: sends what it has and returns whether all of it succeeded.
    """

    due: float | None
    run: Callable[[], Coroutine[Any, Any, bool]]


def request_units(requests: Iterable[PlannedRequest], prepare: Prepare, send: Send) -> Iterator[Unit]:
    """Yield a unit for each request. Its prompt is made when the unit is taken: in an open loop before it is due."""
    for request in requests:
        yield _request_unit(prepare(request), send)


def session_units(sessions: Iterable[Session], prepare: Prepare, send: Send) -> Iterator[Unit]:
    """Yield a unit for each session; it is due when its first request is."""
    for session in sessions:
        yield _session_unit(session, prepare, send)


def _request_unit(prepared: Prepared, send: Send) -> Unit:
    async def run() -> bool:
        return (await send(prepared)).failure is None

    return Unit(prepared.request.due, run)


def _session_unit(session: Session, prepare: Prepare, send: Send) -> Unit:
    async def run() -> bool:
        answers: list[Sequence[int] | None] = []
        for call in range(session.calls):
            record = await send(prepare(session.request(call, answers)))
            # a failed request ends the session: the next one continues its answer
            if record.failure is not None:
                return False
            answers.append(record.answer)
        return True

    return Unit(session.due, run)
