"""Answers that make no progress: streams that bring nothing, and decode workers that stand still. I/O: `/v1/loads`."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp

from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.health.load_monitor import ask_load
from sun_sglang.router.workers.worker import Worker
from sun_sglang.topology import Router as RouterSettings


class _Seen(NamedTuple):
    stamp: object
    since: float


class StallDetector:
    """Ends answers that make no progress.

    A silent answer alone is no sign of a worker that hangs: SGLang's tool-call parsers hold a stream back while the
    worker makes its tokens, and an answer that is not streamed shows nothing before its end. So the worker is judged,
    by its batches (SGLang stamps its load with each batch, srt/managers/scheduler.py: publish_load_snapshot) and by the
    bytes of its other answers. A worker that does neither for `idle_timeout` hangs, even while its HTTP server answers:
    it leaves the rotation. One that does either keeps its silent answers for `answer_timeout`; then that answer ends
    alone.
    """

    def __init__(
        self, session: aiohttp.ClientSession, limits: RouterSettings, dispatcher: Dispatcher, deadlines: Deadlines
    ) -> None:
        self._session = session
        self._deadlines = deadlines
        self._dispatcher = dispatcher
        self._idle = limits.idle_timeout
        self._most = max(limits.answer_timeout, self._idle)
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(min(self._deadlines.stall_interval_max, self._idle / 4))
            silent = self._silent(self._idle / 2)
            owing = {attempt.pair.decode.name: attempt.pair.decode for attempt in silent}
            self._seen = {name: seen for name, seen in self._seen.items() if name in owing}
            await asyncio.gather(*(self._look(worker) for worker in owing.values()))
            for worker in owing.values():
                self.judge(worker)
            for attempt in self._silent(self._most):
                attempt.end_silent(self._most, stalled=False)

    def _silent(self, seconds: float) -> list[Attempt]:
        """The attempts that have shown nothing for so long."""
        now = self._dispatcher.attempts.clock.now()
        return [a for a in self._dispatcher.attempts if now - a.silent_since > seconds]

    async def _look(self, worker: Worker) -> None:
        load = await ask_load(self._session, worker, self._deadlines.stall_report)
        stamp = None if load is None else load.stamp
        seen = self._seen.get(worker.name)
        now = self._dispatcher.attempts.clock.now()
        if seen is None:
            self.saw(worker.name, stamp, now)
        elif stamp is not None and stamp != seen.stamp:
            self.saw(worker.name, stamp, now)
            worker.note_progress(now)

    def saw(self, worker: str, stamp: object, since: float) -> None:
        """Note that a worker's load has had this stamp since a clock time."""
        self._seen[worker] = _Seen(stamp, since)

    def judge(self, worker: Worker) -> None:
        """Take a worker out of the rotation that ran no batch and sent no byte while it owes answers."""
        seen = self._seen[worker.name]
        now = self._dispatcher.attempts.clock.now()
        if now - max(seen.since, self._dispatcher.attempts.last_progress(worker)) <= self._idle / 2:
            return
        late = [a for a in self._silent(self._idle) if a.pair.decode is worker]
        if seen.stamp is None:
            # Without a stamp only the streams show that it hangs; its probe judges the rest.
            late = [a for a in late if a.request.stream]
        if not late:
            return
        for attempt in late:
            attempt.end_silent(self._idle, stalled=True)
        reason = f"it owes tokens and ran no batch for {self._idle / 2:g} s"
        self._dispatcher.ejector.eject(worker.name, reason, gone=seen.stamp is not None)
