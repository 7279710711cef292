"""The changes of modules that the workers of a deployment report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from sun_sglang.bench.adapters.deployment import AdapterDeployment
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.contracts.module import MODULES_PATH
from sun_sglang.contracts.modules_report import ModulesReport

_SAMPLE_S = 0.5


class Changed(NamedTuple):
    """The changes of all prefill workers since their starts.

    Attributes:
        changes: their number.
        seconds: the time that they took.
    """

    changes: float
    seconds: float


class ChangeLog:
    """The changes at the times at which they were read, seconds since the epoch."""

    def __init__(self) -> None:
        self._read: list[tuple[float, Changed]] = []

    def note(self, at: float, changed: Changed) -> None:
        """Add what was read at a time; times grow."""
        self._read.append((at, changed))

    def during(self, run: RunReport) -> Changed:
        """Return the changes in the window of a run of `sun bench`, to within a second at both ends."""
        started = datetime.fromisoformat(run.started).timestamp()
        before, after = (self._at(started + edge) for edge in (run.window.start, run.window.end))
        return Changed(after.changes - before.changes, after.seconds - before.seconds)

    def _at(self, when: float) -> Changed:
        """Return what was read last at a time or before it, and the first that was read if none was."""
        return max((read for read in self._read if read[0] <= when), default=self._read[0])[1]


async def changes_of(deployment: AdapterDeployment) -> Changed:
    """Return the changes of all prefill workers so far."""
    number, seconds = 0.0, 0.0
    async with deployment.worker_client() as client:
        for process in deployment.state.processes:
            if process.role != "prefill":
                continue
            async with client.get(process.url + MODULES_PATH) as reply:
                # 404: the worker serves its own model alone
                if reply.status == 200:
                    report = ModulesReport.model_validate_json(await reply.read())
                    number += sum(change.changes for change in report.changed.values())
                    seconds += sum(change.seconds for change in report.changed.values())
    return Changed(number, seconds)


@asynccontextmanager
async def logged_changes(deployment: AdapterDeployment) -> AsyncIterator[ChangeLog]:
    """Read the changes of a deployment twice a second while the block runs."""
    log = ChangeLog()
    log.note(time.time(), await changes_of(deployment))

    async def read() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            changed = await changes_of(deployment)
            log.note(time.time(), changed)

    reading = asyncio.create_task(read())
    try:
        yield log
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
