"""Changes of the fleet while the router runs: what they are, pure; and the file that holds them, which is watched."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

import orjson
from pydantic import ValidationError

from sun_sglang.private_file import write_private
from sun_sglang.router.errors import Problem
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.fleet import Fleet, FleetError, FleetWorker, load_fleet
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Transition
from sun_sglang.router.workers.watched_file import WATCH_S, WatchedFile

LOCK_S = 5.0
_LOCK_PAUSE_S = 0.02
Document = dict[str, Any]
Change = Callable[[Document], None]


class FleetStore:
    """Keeps a registry in step with its fleet file, and the file in step with changes that are asked for.

    The file is what every process of a router shares, and what a router that is started again reads: a change is made
    once it is in there.

    Args:
        registry: what is served.
        path: the file; None keeps changes in memory.
        log: for files that cannot be used.
    """

    def __init__(self, registry: Registry, path: Path | None, log: Log) -> None:
        self._registry = registry
        self._transition = Transition(registry)
        self._file = None if path is None else WatchedFile(path)
        self._log = log

    async def edit(self, change: Change) -> Fleet:
        """Change the fleet.

        Raises:
            Problem: the result would not be a fleet, the change itself refuses, the file cannot be read or written, or
                somebody else holds its lock; nothing has changed.
        """
        if self._file is None:
            fleet = _changed(self._registry.wanted, change)
        else:
            fleet = await self._edit_file(self._file, change)
        self._transition.change(fleet)
        return fleet

    async def _edit_file(self, file: WatchedFile, change: Change) -> Fleet:
        try:
            async with _locked(file.path):
                fleet = _changed(self._load(file), change)
                _replace(file.path, fleet)
                file.note()
        except FleetError as e:
            # something else wrote it, or writes it right now
            raise Problem(409, f"the fleet file cannot be changed as it is: {e}", code="fleet_unusable") from e
        except OSError as e:
            raise Problem(503, f"the fleet file cannot be written: {e}", code="fleet_unusable") from e
        return fleet

    async def run(self) -> None:
        """Take over what others write to the file, until cancelled."""
        while self._file is not None:
            await asyncio.sleep(WATCH_S)
            if not self._file.changed():
                continue
            try:
                fleet = self._load(self._file)
            except FleetError as e:
                self._log.event("fleet_refused", why=str(e))
                continue
            self._transition.change(fleet)
            self._log.event("fleet_changed", tasks=list(fleet.tasks), workers=[w.name for w in fleet.workers])

    def _load(self, file: WatchedFile) -> Fleet:
        """Read the file.

        Raises:
            FleetError: it is wrong, or gives a pool that runs another role. Its workers were started for one role.
        """
        fleet = load_fleet(file.path)
        for name, pool in self._registry.wanted.pools.items():
            changed = fleet.pools.get(name, pool)
            if changed.role != pool.role:
                what = f"it is a {pool.role} pool and stays one while the router runs; give the other pool another name"
                raise FleetError(f"{file.path}: pools.{name}.role: {what}")
        return fleet


# --- changes --------------------------------------------------------------------------------------------------------


def add_worker(spec: FleetWorker) -> Change:
    """A worker more."""

    def change(document: Document) -> None:
        if any(w["name"] == spec.name for w in document["workers"]):
            raise Problem(409, f"there is a worker `{spec.name}` already", code="worker_exists")
        document["workers"].append(spec.model_dump())

    return change


def set_draining(name: str, draining: bool) -> Change:
    """A worker takes no more requests, or takes them again."""

    def change(document: Document) -> None:
        _worker(document, name)["draining"] = draining

    return change


def remove_worker(name: str) -> Change:
    """A worker less."""

    def change(document: Document) -> None:
        document["workers"].remove(_worker(document, name))

    return change


def add_pool(name: str, pool: Document) -> Change:
    """A pool more, which no task names yet."""

    def change(document: Document) -> None:
        if name in document["pools"]:
            raise Problem(409, f"there is a pool `{name}` already", code="pool_exists")
        document["pools"][name] = pool

    return change


def remove_pool(name: str) -> Change:
    """A pool less, which has to be out of use."""

    def change(document: Document) -> None:
        if name not in document["pools"]:
            raise Problem(404, f"no pool is named `{name}`", code="pool_not_found")
        users = [t for t, task in document["tasks"].items() if name in (task["prefill"], task["decode"])]
        users += [w["name"] for w in document["workers"] if w["pool"] == name]
        if users:
            raise Problem(409, f"pool `{name}` is in use by {', '.join(users)}", code="pool_in_use")
        del document["pools"][name]

    return change


def set_task(name: str, changed: Document) -> Change:
    """A task's pools, weight or caps; what is not given stays. A task that is new needs both pools."""

    def change(document: Document) -> None:
        document["tasks"][name] = document["tasks"].get(name, {}) | changed

    return change


def _worker(document: Document, name: str) -> Document:
    for worker in document["workers"]:
        if worker["name"] == name:
            found: Document = worker
            return found
    raise Problem(404, f"no worker is named `{name}`", code="worker_not_found")


def _changed(fleet: Fleet, change: Change) -> Fleet:
    document = fleet.model_dump(mode="json")
    change(document)
    try:
        return Fleet.model_validate_json(orjson.dumps(document))
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise Problem(400, f"{where + ': ' if where else ''}{first['msg']}", code="invalid_change") from e


# --- the file -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Let one writer in at a time, over all processes. The lock is on a file of its own: the fleet's is replaced.

    Raises:
        Problem: 503 where it is not free within `LOCK_S`.
    """
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            async with asyncio.timeout(LOCK_S):
                # a call that waits in the kernel could not be given up, and no event tells that a lock is free
                while not _lock(lock):  # noqa: ASYNC110 - as said
                    await asyncio.sleep(_LOCK_PAUSE_S)
        except TimeoutError as e:
            message = f"another process holds the lock on {path.name} since {LOCK_S:g} s; try again"
            raise Problem(503, message, code="fleet_locked") from e
        yield


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, fleet: Fleet) -> None:
    # the file holds workers' keys
    write_private(path, orjson.dumps(fleet.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
