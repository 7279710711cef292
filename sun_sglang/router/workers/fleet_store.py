"""Changes of the fleet while the router runs: what they are, pure; and the file that holds them, which is watched."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

from sun_sglang.contracts.fleet_file import Fleet, FleetError, load_fleet, write_fleet
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.fleet_edits import Edit, edited
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from sun_sglang.router.workers.watched_file import WatchedFile


class FleetStore:
    """Keeps a registry in step with its fleet file, and the file in step with changes that are asked for.

    The file is what every process of a router shares, and what a router that is started again reads: a change is made
    once it is in there.

    Args:
        registry: what is served.
        path: the file; None keeps changes in memory.
        log: for files that cannot be used.
        deadlines: for the lock on the file, and for checks whether it was replaced.
    """

    def __init__(self, registry: Registry, path: Path | None, log: Log, deadlines: Deadlines) -> None:
        self._registry = registry
        self._deadlines = deadlines
        self._rollout = Rollout(registry)
        self._file = None if path is None else WatchedFile(path)
        self._log = log

    async def edit(self, change: Edit) -> Fleet:
        """Edit the fleet.

        Raises:
            Problem: the result would not be a fleet, the change itself refuses, the file cannot be read or written, or
                somebody else holds its lock; nothing has changed.
        """
        if self._file is None:
            fleet = edited(self._registry.wanted, change)
        else:
            fleet = await self._edit_file(self._file, change)
        self._rollout.change(fleet)
        return fleet

    async def _edit_file(self, file: WatchedFile, change: Edit) -> Fleet:
        try:
            async with _locked(file.path, self._deadlines):
                fleet = edited(self._load(file), change)
                write_fleet(file.path, fleet)
                file.note()
        except FleetError as e:
            # something else wrote it, or writes it right now
            raise ApiError(409, f"the fleet file cannot be changed as it is: {e}", code="fleet_unusable") from e
        except OSError as e:
            raise ApiError(503, f"the fleet file cannot be written: {e}", code="fleet_unusable") from e
        return fleet

    async def run(self) -> None:
        """Take over what others write to the file, until cancelled."""
        while self._file is not None:
            await asyncio.sleep(self._deadlines.file_check)
            if not self._file.changed():
                continue
            try:
                fleet = self._load(self._file)
            except FleetError as e:
                self._log.event("fleet_refused", why=str(e))
                continue
            self._rollout.change(fleet)
            self._log.event("fleet_changed", tasks=list(fleet.tasks), workers=[w.name for w in fleet.workers])

    def _load(self, file: WatchedFile) -> Fleet:
        """Read the file.

        Raises:
            FleetError: it is wrong, or gives a pool that runs another role. Its workers were started for one role.
        """
        fleet = load_fleet(file.path)
        for name, pool in self._registry.wanted.pools.items():
            given = fleet.pools.get(name, pool)
            if given.role != pool.role:
                what = f"it is a {pool.role} pool and stays one while the router runs; give the other pool another name"
                raise FleetError(f"{file.path}: pools.{name}.role: {what}")
        return fleet


@asynccontextmanager
async def _locked(path: Path, deadlines: Deadlines) -> AsyncIterator[None]:
    """Let one writer in at a time, over all processes. The lock is on a file of its own: the fleet's is replaced.

    Raises:
        Problem: 503 where it is not free within `fleet_lock`.
    """
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            async with asyncio.timeout(deadlines.fleet_lock):
                # a call that waits in the kernel could not be given up, and no event tells that a lock is free
                while not _lock(lock):  # noqa: ASYNC110 - as said
                    await asyncio.sleep(deadlines.fleet_lock_pause)
        except TimeoutError as e:
            message = f"another process holds the lock on {path.name} since {deadlines.fleet_lock:g} s; try again"
            raise ApiError(503, message, code="fleet_locked") from e
        yield


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
