"""Edits of the fleet file's document. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from pydantic import ValidationError

from sun_sglang.contracts.fleet_file import Fleet, FleetWorker
from sun_sglang.router.errors import ApiError
from sun_sglang.strict import first_invalid

Document = dict[str, Any]
Edit = Callable[[Document], None]


def add_worker(spec: FleetWorker) -> Edit:
    """A worker more."""

    def change(document: Document) -> None:
        if any(w["name"] == spec.name for w in document["workers"]):
            raise ApiError(409, f"there is a worker `{spec.name}` already", code="worker_exists")
        document["workers"].append(spec.model_dump())

    return change


def set_draining(name: str, draining: bool) -> Edit:
    """A worker takes no more requests, or takes them again."""

    def change(document: Document) -> None:
        _worker(document, name)["draining"] = draining

    return change


def remove_worker(name: str) -> Edit:
    """A worker less."""

    def change(document: Document) -> None:
        document["workers"].remove(_worker(document, name))

    return change


def add_pool(name: str, pool: Document) -> Edit:
    """A pool more, which no task names yet."""

    def change(document: Document) -> None:
        if name in document["pools"]:
            raise ApiError(409, f"there is a pool `{name}` already", code="pool_exists")
        document["pools"][name] = pool

    return change


def remove_pool(name: str) -> Edit:
    """A pool less, which has to be out of use."""

    def change(document: Document) -> None:
        if name not in document["pools"]:
            raise ApiError(404, f"no pool is named `{name}`", code="pool_not_found")
        users = [t for t, task in document["tasks"].items() if name in (task["prefill"], task["decode"])]
        users += [w["name"] for w in document["workers"] if w["pool"] == name]
        if users:
            raise ApiError(409, f"pool `{name}` is in use by {', '.join(users)}", code="pool_in_use")
        del document["pools"][name]

    return change


def set_task(name: str, changed: Document) -> Edit:
    """A task's pools, weight or caps; what is not given stays. A task that is new needs both pools."""

    def change(document: Document) -> None:
        document["tasks"][name] = document["tasks"].get(name, {}) | changed

    return change


def _worker(document: Document, name: str) -> Document:
    for worker in document["workers"]:
        if worker["name"] == name:
            found: Document = worker
            return found
    raise ApiError(404, f"no worker is named `{name}`", code="worker_not_found")


def edited(fleet: Fleet, change: Edit) -> Fleet:
    """Return a fleet with one edit.

    Raises:
        ApiError: the edit refuses, or its result is no valid fleet (400).
    """
    document = fleet.model_dump(mode="json")
    change(document)
    try:
        return Fleet.model_validate_json(orjson.dumps(document))
    except ValidationError as e:
        raise ApiError(400, first_invalid(e, Fleet).describe(), code="invalid_change") from e
