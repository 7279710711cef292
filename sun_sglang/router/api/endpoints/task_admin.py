"""The admin API of tasks: add, change and remove them while the router serves requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, Field

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.errors import CheckpointError
from sun_sglang.router.api.endpoints.small_body import read_model
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.adapters.task_trial import TaskTrials
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.workers import fleet_edits
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.topology import PoolName, TaskName, TaskSettings

ReadAdapter = Callable[[Path], AdapterRef]


def _absolute(path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ValueError("give the absolute path of a directory that the router and the workers can read")
    return path


Directory = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_absolute)]


class NewTask(TaskSettings):
    """The body of POST /tasks.

    Attributes:
        name: its name.
        adapter: directory of its adapter; None for the prefill pool's model as it is.
    """

    name: TaskName
    adapter: Directory | None = None


class TaskChange(TaskSettings):
    """The body of PUT /tasks/NAME. Only the fields that it has count; `adapter: null` removes the adapter."""

    prefill: PoolName = ""
    decode: PoolName = ""
    adapter: Directory | None = None


class TaskHandlers:
    """Handlers of the admin API of tasks.

    A task with an adapter is announced once every admitted worker of its prefill pool has the adapter in effect. If one
    refuses, nothing has changed on any worker.

    Args:
        registry: the tasks and the workers.
        store: writes the fleet file.
        trials: tries a task before it is announced.
        in_flight: requests of clients.
        read_adapter: reads an adapter's directory; runs in a thread.
    """

    def __init__(
        self,
        registry: Registry,
        store: FleetStore,
        trials: TaskTrials,
        in_flight: InFlight,
        read_adapter: ReadAdapter,
    ) -> None:
        self._registry = registry
        self._store = store
        self._trials = trials
        self._in_flight = in_flight
        self._read_adapter = read_adapter
        self._changing: set[str] = set()

    async def add(self, http: web.Request) -> web.Response:
        """POST /tasks: add a task. It is known to clients once it can be served."""
        new = await read_model(http, NewTask)
        name = new.name
        with self._change(name):
            self._store.refresh()
            if name in self._registry.wanted.tasks:
                raise fleet_edits.task_exists(name)
            settings = new.model_dump(exclude={"name", "adapter"})
            task = FleetTask(**settings, adapter=await self._adapter(new.adapter))
            # the edit refuses it again, and before that no worker has done anything for it
            self._store.check(fleet_edits.add_task(name, task.model_dump(mode="json")))
            async with self._trials.passed(task):
                await self._edit(fleet_edits.add_task(name, task.model_dump(mode="json")))
        return self._response(name, 201)

    async def change(self, http: web.Request) -> web.Response:
        """PUT /tasks/NAME: change a task. What it was before serves it until the change can be served."""
        name = http.match_info["name"]
        given = await read_model(http, TaskChange, empty='send the fields to change, such as {"prefill": "POOL"}')
        changed = given.model_dump(mode="json", exclude_unset=True)
        with self._change(name):
            self._store.refresh()
            before = self._registry.wanted.tasks.get(name)
            if before is None:
                raise fleet_edits.task_not_found(name)
            adapter = await self._adapter(given.adapter) if "adapter" in changed else before.adapter
            if "adapter" in changed:
                changed["adapter"] = None if adapter is None else adapter.model_dump(mode="json")
            edit = fleet_edits.set_task(name, changed)
            after = self._store.check(edit).tasks[name]
            if adapter is None or (after.adapter, after.prefill) == (before.adapter, before.prefill):
                await self._edit(edit)
            else:
                async with self._trials.passed(after):
                    await self._edit(edit)
        return self._response(name, 200)

    async def remove(self, http: web.Request) -> web.Response:
        """DELETE /tasks/NAME: remove a task. Requests in flight are served to their end, and new ones are refused."""
        name = http.match_info["name"]
        with self._change(name):
            await self._edit(fleet_edits.remove_task(name))
        return json_response({"name": name, "removed": True, "in_flight": self._in_flight.requests[name]})

    async def _edit(self, edit: fleet_edits.Edit) -> None:
        try:
            await self._store.edit(edit)
        except ApiError:
            # another process may have changed the tasks: what they need must not be unloaded
            self._store.refresh()
            raise

    async def _adapter(self, directory: str | None) -> AdapterRef | None:
        if directory is None:
            return None
        try:
            return await asyncio.to_thread(self._read_adapter, Path(directory))
        except CheckpointError as e:
            raise ApiError(400, str(e), param="adapter", code="adapter_refused") from e

    @contextmanager
    def _change(self, name: str) -> Iterator[None]:
        """Refuse a second change of a task while one is under way."""
        if name in self._changing:
            raise ApiError(409, f"another change of task `{name}` is under way; try again after it", code="task_busy")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)

    def _response(self, name: str, status: int) -> web.Response:
        served, wanted = self._registry.fleet.tasks.get(name), self._registry.wanted.tasks.get(name)
        if wanted is None:
            # another change came first
            raise fleet_edits.task_not_found(name)
        moved = served == wanted
        shown: dict[str, Any] = wanted.model_dump(exclude={"adapter"})
        shown["adapter"] = wanted.adapter and {"name": wanted.adapter.name, "directory": wanted.adapter.directory}
        return json_response({"name": name, "moved": moved, **shown}, status if moved else 202)
