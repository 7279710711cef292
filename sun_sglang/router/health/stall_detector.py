"""Detect decode workers that make no progress, and answers that bring nothing."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp

from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.health.load_report import fetch_load
from sun_sglang.router.workers.worker import Worker
from sun_sglang.topology import Router as RouterSettings


class _Stamp(NamedTuple):
    value: object
    since: float


class StallDetector:
    """Ends answers that make no progress, and ejects the workers that hang.

    A silent answer alone does not show that its worker hangs: SGLang's tool-call parsers hold a stream back while the
    worker makes its tokens, and an answer that is not streamed shows nothing before its end. Progress of a worker is a
    new batch (SGLang stamps its load with each batch, srt/managers/scheduler.py: publish_load_snapshot) or a byte of
    another answer. A worker without either for `idle_timeout` hangs, even while its HTTP server answers: it leaves the
    rotation. A worker with either keeps its silent answers for `answer_timeout`; then the silent answer ends alone.

    Args:
        session: sends requests for load reports.
        limits: `idle_timeout` and `answer_timeout`.
        dispatcher: the attempts under way, and the ejection of workers.
        deadlines: the interval of the checks, and the limit for a load report.
    """

    def __init__(
        self, session: aiohttp.ClientSession, limits: RouterSettings, dispatcher: Dispatcher, deadlines: Deadlines
    ) -> None:
        self._session = session
        self._deadlines = deadlines
        self._dispatcher = dispatcher
        self._idle = limits.idle_timeout
        self._most = max(limits.answer_timeout, self._idle)
        self._stamps: dict[str, _Stamp] = {}

    async def run(self) -> None:
        """Check all answers and their workers until cancelled."""
        while True:
            await asyncio.sleep(min(self._deadlines.stall_interval_max, self._idle / 4))
            silent = self._silent_attempts(self._idle / 2)
            suspects = {attempt.pair.decode.name: attempt.pair.decode for attempt in silent}
            self._stamps = {name: stamp for name, stamp in self._stamps.items() if name in suspects}
            await asyncio.gather(*(self._read_stamp(worker) for worker in suspects.values()))
            for worker in suspects.values():
                self.check(worker)
            for attempt in self._silent_attempts(self._most):
                attempt.end_silent(self._most, stalled=False)

    def note_stamp(self, worker: str, value: object, since: float) -> None:
        """Store the stamp of a worker's load.

        Args:
            worker: name of the worker.
            value: the stamp; None if the worker reports none.
            since: clock time since which the load has this stamp.
        """
        self._stamps[worker] = _Stamp(value, since)

    def check(self, worker: Worker) -> None:
        """Eject a decode worker, and end its answers, if it ran no batch and sent no byte for `idle_timeout`."""
        stamp = self._stamps[worker.name]
        attempts = self._dispatcher.attempts
        if attempts.clock.now() - max(stamp.since, attempts.last_progress(worker)) <= self._idle / 2:
            return
        late = [a for a in self._silent_attempts(self._idle) if a.pair.decode is worker]
        if stamp.value is None:
            # without a stamp only streams show that the worker hangs; the probe covers the other answers
            late = [a for a in late if a.request.stream]
        if not late:
            return
        for attempt in late:
            attempt.end_silent(self._idle, stalled=True)
        reason = f"it has requests and ran no batch for {self._idle / 2:g} s"
        self._dispatcher.ejector.eject(worker.name, reason, gone=stamp.value is not None)

    def _silent_attempts(self, seconds: float) -> list[Attempt]:
        """Return the attempts that have brought nothing for this long."""
        now = self._dispatcher.attempts.clock.now()
        return [a for a in self._dispatcher.attempts if now - a.silent_since > seconds]

    async def _read_stamp(self, worker: Worker) -> None:
        report = await fetch_load(self._session, worker.spec, self._deadlines.stall_report)
        value = None if report is None else report.stamp
        before = self._stamps.get(worker.name)
        now = self._dispatcher.attempts.clock.now()
        if before is None:
            self.note_stamp(worker.name, value, now)
        elif value is not None and value != before.value:
            self.note_stamp(worker.name, value, now)
            worker.note_progress(now)
