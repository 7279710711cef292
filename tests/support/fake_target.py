"""A target whose requests take as long as a test says, on a clock that it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sun_sglang.bench.load.client.endpoint import Prepared
from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.workload.agents.session import Session
from sun_sglang.bench.load.workload.agents.workflow import REACT
from sun_sglang.bench.load.workload.planned import PlannedRequest
from sun_sglang.bench.load.workload.prompts.random_tokens import RandomTokens
from tests.support.manual_clock import ManualClock


class FakeTarget:
    """Answers each request after `seconds(index)`; a request whose index is in `failing` fails then."""

    def __init__(
        self, clock: ManualClock, seconds: Callable[[int], float], failing: frozenset[int] = frozenset()
    ) -> None:
        self.clock = clock
        self.records: list[RequestRecord] = []
        self.most_in_flight = 0
        self._seconds = seconds
        self._failing = failing
        self._in_flight = 0

    async def send(self, prepared: Prepared) -> RequestRecord:
        request = prepared.request
        record = RequestRecord(request.index, request.task, request.output_tokens, request.due, self.clock.now())
        self.records.append(record)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self.clock.sleep_until(self.clock.now() + self._seconds(request.index))
        finally:
            self._in_flight -= 1
        record.ended = self.clock.now()
        record.output_tokens = request.output_tokens
        record.failure = Failure("http_503", "full") if request.index in self._failing else None
        return record


def planned(index: int, due: float | None = None, *, task: str = "a", session: int | None = None) -> PlannedRequest:
    return PlannedRequest(index, task, due, (1, 2), 3, session)


def planned_session(number: int, due: float | None = None, *, calls: int = 2) -> Session:
    """Return a session of one agent; call `c` has the index `number * calls + c`."""
    return Session(number, due, ("a",), replace(REACT, agents=1, turns=calls), RandomTokens(0, 64, 250))
