"""Edits of a fleet: what the API under `/workers`, `/pools` and `/tasks` changes. Pure.

An edit changes a document in place, or refuses with an `ApiError`. The tasks of a document are objects, so that an edit
of one task leaves hundreds of others as they are; everything else is as in the fleet file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from sun_sglang.contracts.fleet_file import Fleet, FleetWorker
from sun_sglang.router.errors import ApiError
from sun_sglang.strict import first_invalid

Document = dict[str, Any]
Edit = Callable[[Document], None]


def add_worker(spec: FleetWorker) -> Edit:
    """Return an edit that adds a worker; 409 if its name is taken."""
    return add_workers((spec,))


def add_workers(specs: Sequence[FleetWorker]) -> Edit:
    """Return an edit that adds workers; 409 if a name is taken."""

    def edit(document: Document) -> None:
        taken = {w["name"] for w in document["workers"]}
        for spec in specs:
            if spec.name in taken:
                raise ApiError(409, f"there is a worker `{spec.name}` already", code="worker_exists")
            taken.add(spec.name)
            document["workers"].append(spec.model_dump())

    return edit


def set_draining(name: str, draining: bool, *, moving: bool = False) -> Edit:
    """Return an edit that takes a worker out of the rotation, or puts it back; 404 if there is none.

    Args:
        name: the worker.
        draining: it takes no new requests.
        moving: its answers go on elsewhere.
    """

    def edit(document: Document) -> None:
        _worker(document, name).update(draining=draining, moving=moving)

    return edit


def remove_worker(name: str) -> Edit:
    """Return an edit that removes a worker; 404 if there is none."""

    def edit(document: Document) -> None:
        document["workers"].remove(_worker(document, name))

    return edit


def add_pool(name: str, pool: Document) -> Edit:
    """Return an edit that adds a pool; 409 if its name is taken."""

    def edit(document: Document) -> None:
        if name in document["pools"]:
            raise ApiError(409, f"there is a pool `{name}` already", code="pool_exists")
        document["pools"][name] = pool

    return edit


def set_pool_size(name: str, workers: int) -> Edit:
    """Return an edit that sets the number of workers that a pool is to have; 404 if there is no such pool."""

    def edit(document: Document) -> None:
        if name not in document["pools"]:
            raise _pool_not_found(name)
        document["pools"][name]["wanted_workers"] = workers

    return edit


def remove_pool(name: str) -> Edit:
    """Return an edit that removes a pool; 404 if there is none, 409 while a task or a worker uses it."""

    def edit(document: Document) -> None:
        if name not in document["pools"]:
            raise _pool_not_found(name)
        users = [t for t, task in document["tasks"].items() if name in (task.prefill, task.decode)]
        users += [w["name"] for w in document["workers"] if w["pool"] == name]
        if users:
            raise ApiError(409, f"pool `{name}` is in use by {', '.join(users)}", code="pool_in_use")
        del document["pools"][name]

    return edit


def add_task(name: str, task: Document) -> Edit:
    """Return an edit that adds a task; 409 if its name is taken."""

    def edit(document: Document) -> None:
        if name in document["tasks"]:
            raise task_exists(name)
        document["tasks"][name] = task

    return edit


def set_task(name: str, changed: Document) -> Edit:
    """Return an edit that sets fields of a task; omitted ones keep their values. 404 if there is no such task."""

    def edit(document: Document) -> None:
        if name not in document["tasks"]:
            raise task_not_found(name)
        document["tasks"][name] = document["tasks"][name].model_dump(mode="json") | changed

    return edit


def remove_task(name: str) -> Edit:
    """Return an edit that removes a task; 404 if there is none, 409 if it is the only one."""

    def edit(document: Document) -> None:
        if name not in document["tasks"]:
            raise task_not_found(name)
        if len(document["tasks"]) == 1:
            message = f"`{name}` is the only task, and a router serves at least one; add another one first"
            raise ApiError(409, message, code="last_task")
        del document["tasks"][name]

    return edit


def task_exists(name: str) -> ApiError:
    """Return the error for a new task whose name is taken."""
    return ApiError(409, f"there is a task `{name}` already; PUT /tasks/{name} changes it", code="task_exists")


def task_not_found(name: str) -> ApiError:
    """Return the error for a task that does not exist."""
    return ApiError(404, f"no task is named `{name}`; POST /tasks adds one", code="task_not_found")


def _pool_not_found(name: str) -> ApiError:
    return ApiError(404, f"no pool is named `{name}`", code="pool_not_found")


def _worker(document: Document, name: str) -> Document:
    for worker in document["workers"]:
        if worker["name"] == name:
            found: Document = worker
            return found
    raise ApiError(404, f"no worker is named `{name}`", code="worker_not_found")


def apply_edit(fleet: Fleet, edit: Edit) -> Fleet:
    """Return a fleet after an edit.

    Raises:
        ApiError: the edit refuses, or its result is no valid fleet (400).
    """
    document = {**fleet.model_dump(mode="json", exclude={"tasks"}), "tasks": dict(fleet.tasks)}
    edit(document)
    try:
        return Fleet.model_validate(document)
    except ValidationError as e:
        raise ApiError(400, first_invalid(e, Fleet).describe(), code="invalid_change") from e
