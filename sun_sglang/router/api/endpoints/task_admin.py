"""The admin API of tasks: add, change and remove them while the router serves requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, Field

from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.router.api.endpoints.small_body import read_model
from sun_sglang.router.api.endpoints.weights_reader import WeightsReader
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.task_weights.task_trial import TaskTrials
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.workers import fleet_edits
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.topology import PoolName, TaskName, TaskSettings


def _absolute(path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ValueError("give the absolute path of a directory that the router and the workers can read")
    return path


Directory = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_absolute)]


class _Weights(TaskSettings):
    """The directories of a task's own weights.

    Attributes:
        adapter: directory of its adapter; None for none.
        model: directory of the module that prefills its prompts in place of the pool's model; None for none.
    """

    adapter: Directory | None = None
    model: Directory | None = None

    def require_one(self) -> None:
        """Raise unless at most one of both is given.

        Raises:
            ApiError: 400.
        """
        if self.adapter is not None and self.model is not None:
            message = "a task has an adapter or a model of its own, and not both"
            raise ApiError(400, message, param="model", code="invalid_change")


class NewTask(_Weights):
    """The body of POST /tasks.

    Attributes:
        name: its name.
    """

    name: TaskName


class TaskChange(_Weights):
    """The body of PUT /tasks/NAME. Only the fields that it has count.

    `adapter: null` and `model: null` remove what the task has; a new adapter replaces a module, and the reverse.
    """

    prefill: PoolName = ""
    decode: PoolName = ""


class TaskHandlers:
    """Handlers of the admin API of tasks.

    A task with weights of its own is announced once every admitted worker of its prefill pool has them in effect. If
    one refuses, nothing has changed on any worker.

    Args:
        registry: the tasks and the workers.
        store: writes the fleet file.
        trials: tries a task before it is announced.
        in_flight: requests of clients.
        reader: reads the directories of adapters and modules.
    """

    def __init__(
        self,
        registry: Registry,
        store: FleetStore,
        trials: TaskTrials,
        in_flight: InFlight,
        reader: WeightsReader,
    ) -> None:
        self._registry = registry
        self._store = store
        self._trials = trials
        self._in_flight = in_flight
        self._reader = reader
        self._changing: set[str] = set()

    async def add(self, http: web.Request) -> web.Response:
        """POST /tasks: add a task. It is known to clients once it can be served."""
        new = await read_model(http, NewTask)
        new.require_one()
        name = new.name
        with self._change(name):
            self._store.refresh()
            if name in self._registry.wanted.tasks:
                raise fleet_edits.task_exists(name)
            settings = new.model_dump(exclude={"name", "adapter", "model"})
            adapter = await self._reader.adapter(new.adapter) if new.adapter is not None else None
            module = await self._reader.module(new.model) if new.model is not None else None
            task = FleetTask(**settings, adapter=adapter, module=await self._unless_own(module, new.prefill))
            # the edit refuses it again, and before that no worker has done anything for it
            self._store.check(fleet_edits.add_task(name, task.model_dump(mode="json")))
            async with self._trials.passed(task):
                await self._edit(fleet_edits.add_task(name, task.model_dump(mode="json")))
        return self._response(name, 201)

    async def change(self, http: web.Request) -> web.Response:
        """PUT /tasks/NAME: change a task. What it was before serves it until the change can be served."""
        name = http.match_info["name"]
        given = await read_model(http, TaskChange, empty='send the fields to change, such as {"prefill": "POOL"}')
        given.require_one()
        changed = given.model_dump(mode="json", exclude_unset=True)
        with self._change(name):
            self._store.refresh()
            before = self._registry.wanted.tasks.get(name)
            if before is None:
                raise fleet_edits.task_not_found(name)
            await self._read_weights(given, before, changed)
            edit = fleet_edits.set_task(name, changed)
            after = self._store.check(edit).tasks[name]
            if after.weights is None or (after.weights, after.prefill) == (before.weights, before.prefill):
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

    async def _read_weights(self, given: TaskChange, before: FleetTask, changed: dict[str, Any]) -> None:
        """Put the weights that a change names into `changed`, as the fleet file has them, in place of directories.

        Raises:
            ApiError: 400, they cannot be read.
        """
        changed.pop("model", None)
        module = before.module
        if "model" in given.model_fields_set or given.adapter is not None:
            module = await self._reader.module(given.model) if given.model is not None else None
        if given.adapter is not None:
            changed["adapter"] = (await self._reader.adapter(given.adapter)).model_dump(mode="json")
        elif module is not before.module and module is not None:
            changed["adapter"] = None
        prefill = changed.get("prefill", before.prefill)
        own = module
        if (module, prefill) != (before.module, before.prefill):
            own = await self._unless_own(module, prefill)
        if own != before.module:
            changed["module"] = own and own.model_dump(mode="json")

    async def _unless_own(self, module: ModuleRef | None, pool: str) -> ModuleRef | None:
        """Return a module; None for one that the workers of a pool started with: the task has no weights of its own.

        Raises:
            ApiError: 400, a pool's model or another task's module has its weights and another configuration: a worker
                knows a module by its weights.
        """
        if module is None:
            return None
        cards = (worker.card for worker in self._registry.members(pool))
        is_own = any(card is not None and card.identity.weights == module.revision for card in cards)
        fleet = self._registry.wanted
        modules = (task.module for task in fleet.tasks.values() if task.prefill == pool)
        others = {one.directory for one in modules if one is not None and one.revision == module.revision}
        if is_own:
            others.add(fleet.pools[pool].model)
        for other in others:
            await self._reader.require_equal(module, other)
        return None if is_own else module

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
        shown: dict[str, Any] = wanted.model_dump(exclude={"adapter", "module"})
        adapter, module = wanted.adapter, wanted.module
        shown["adapter"] = adapter and {"name": adapter.name, "directory": adapter.directory}
        shown["module"] = module and {"revision": module.revision, "directory": module.directory}
        return json_response({"name": name, "moved": moved, **shown}, status if moved else 202)
