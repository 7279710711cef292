"""The fleet file while the router runs: it is edited under a lock, and watched for changes by other processes."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

from sun_sglang.contracts.fleet_file import Fleet, FleetError, load_fleet, write_fleet
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.fleet_edits import Edit, apply_edit
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from sun_sglang.router.workers.watched_file import WatchedFile


class FleetStore:
    """Keeps a registry in step with its fleet file, and writes edits to the file.

    All processes of a router share the file, and a router that starts again reads it: an edit counts once it is in the
    file.

    Args:
        registry: the workers, and the fleet that is served.
        path: the file; None keeps edits in memory.
        log: receives changes of the file, and files that cannot be used.
        deadlines: limits for the lock on the file, and the interval of the checks for changes.
        has_requests: returns whether a task has requests that have not ended.
    """

    def __init__(
        self,
        registry: Registry,
        path: Path | None,
        log: Log,
        deadlines: Deadlines,
        has_requests: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._registry = registry
        self._deadlines = deadlines
        self._rollout = Rollout(registry, has_requests)
        self._file = None if path is None else WatchedFile(path)
        self._file_error: FleetError | None = None
        self._log = log

    async def edit(self, edit: Edit) -> Fleet:
        """Apply an edit, and return the new fleet.

        Raises:
            ApiError: the edit refuses, its result is no valid fleet, the file cannot be read or written, or another
                process holds its lock. Nothing has changed then.
        """
        if self._file is None:
            fleet = apply_edit(self._registry.wanted, edit)
        else:
            fleet = await self._edit_file(self._file, edit)
        self._rollout.change(fleet)
        return fleet

    def check(self, edit: Edit) -> Fleet:
        """Return the wanted fleet after an edit, and change nothing.

        Raises:
            ApiError: the edit refuses, or its result is no valid fleet.
        """
        return apply_edit(self._registry.wanted, edit)

    def refresh(self) -> None:
        """Take over a change that another process wrote to the file and that `run` has not seen yet.

        A file that cannot be used changes nothing; `run` reports it, and so does the next edit.
        """
        if self._file is not None and self._file.changed():
            self._take_over(self._file)

    async def _edit_file(self, file: WatchedFile, edit: Edit) -> Fleet:
        try:
            async with _locked(file.path, self._deadlines):
                self.refresh()
                if self._file_error is not None:
                    raise self._file_error
                fleet = apply_edit(self._registry.wanted, edit)
                write_fleet(file.path, fleet)
                file.note()
        except FleetError as e:
            # another program wrote it, or is writing it now
            raise ApiError(409, f"the fleet file has an error and cannot be changed: {e}", code="fleet_unusable") from e
        except OSError as e:
            raise ApiError(503, f"the fleet file cannot be written: {e}", code="fleet_unusable") from e
        return fleet

    async def run(self) -> None:
        """Serve each fleet that other processes write to the file, until cancelled."""
        while self._file is not None:
            await asyncio.sleep(self._deadlines.file_check)
            if self._file.changed():
                self._take_over(self._file)

    def _take_over(self, file: WatchedFile) -> None:
        self._file_error = None
        try:
            fleet = self._load(file)
        except FleetError as e:
            self._file_error = e
            self._log.event("fleet_refused", why=str(e))
            return
        self._rollout.change(fleet)
        self._log.event("fleet_changed", tasks=list(fleet.tasks), workers=[w.name for w in fleet.workers])

    def _load(self, file: WatchedFile) -> Fleet:
        """Return the fleet in the file.

        Raises:
            FleetError: the file is wrong, or gives another role to a pool whose workers were started for one role.
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
    """Hold the lock on a fleet file, for one writer among all processes.

    The lock is on a file of its own, since each write replaces the fleet file.

    Raises:
        ApiError: the lock is not free within `fleet_lock` (503).
    """
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            async with asyncio.timeout(deadlines.fleet_lock):
                # a blocking call could not be cancelled, and the kernel reports no event when a lock becomes free
                while not _lock(lock):  # noqa: ASYNC110 - see above
                    await asyncio.sleep(deadlines.fleet_lock_pause)
        except TimeoutError as e:
            message = f"another process has held the lock on {path.name} for {deadlines.fleet_lock:g} s; try again"
            raise ApiError(503, message, code="fleet_locked") from e
        yield


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
