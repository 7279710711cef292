"""The admin API of workers and pools: change them while the router serves requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import Field

from sun_sglang.contracts.fleet_file import MAX_WORKERS, FleetPool, FleetWorker
from sun_sglang.router.api.endpoints.small_body import read_model
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.errors import ApiError
from sun_sglang.router.workers import fleet_edits
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker
from sun_sglang.strict import Strict


class NewPool(FleetPool):
    """The body of POST /pools."""

    name: str


class NewWorkers(Strict):
    """The body of POST /workers/batch."""

    workers: tuple[FleetWorker, ...] = Field(min_length=1, max_length=MAX_WORKERS)


class PoolSize(Strict):
    """The body of PUT /pools/NAME.

    Attributes:
        wanted_workers: the number of workers that the pool is to have.
    """

    wanted_workers: int = Field(ge=0, le=MAX_WORKERS)


class Drain(Strict):
    """The body of POST /workers/NAME/drain, which may also be empty.

    Attributes:
        move: the answers of a decode worker go on elsewhere.
    """

    move: bool = False


class AdminHandlers:
    """Handlers of workers and pools. Every change goes through the fleet store, which writes the fleet file."""

    def __init__(self, registry: Registry, store: FleetStore) -> None:
        self._registry = registry
        self._store = store

    async def workers(self, _: web.Request) -> web.Response:
        """GET /workers: every worker, including those that no task uses and those that are leaving."""
        stay = {spec.name for spec in self._registry.wanted.workers}
        return json_response(
            {"workers": [self._worker(w, w.name not in stay) for w in self._registry.workers.values()]}
        )

    async def add_worker(self, http: web.Request) -> web.Response:
        """POST /workers: add a worker. It serves once its card is accepted and a canary has passed."""
        spec = await read_model(http, FleetWorker)
        await self._add((spec,))
        return json_response(self._worker(self._registry.workers[spec.name], leaving=False), 201)

    async def add_workers(self, http: web.Request) -> web.Response:
        """POST /workers/batch: add several workers in one change of the fleet, or none where one is refused."""
        specs = (await read_model(http, NewWorkers)).workers
        await self._add(specs)
        return json_response({"added": [spec.name for spec in specs]}, 201)

    async def drain(self, http: web.Request) -> web.Response:
        """POST /workers/NAME/drain: send a worker no new requests, and let its answers go on elsewhere if asked to."""
        body = await read_model(http, Drain) if http.body_exists else Drain()
        return await self._set_draining(http.match_info["name"], draining=True, moving=body.move)

    async def resume(self, http: web.Request) -> web.Response:
        """POST /workers/NAME/resume: send a worker requests again."""
        return await self._set_draining(http.match_info["name"], draining=False)

    async def remove_worker(self, http: web.Request) -> web.Response:
        """DELETE /workers/NAME: remove a worker once its requests have ended, or at once with `?force=true`."""
        name, force = http.match_info["name"], http.query.get("force", "false")
        if force not in ("true", "false"):
            raise ApiError(400, "`force` must be true or false", param="force")
        leaving = name in self._registry.workers and not self._is_wanted(name)
        if not leaving:
            await self._store.edit(fleet_edits.remove_worker(name))
        if force == "true" and name in self._registry.workers:
            self._registry.remove(name, "it was removed")
            self._registry.progress()
        gone = name not in self._registry.workers
        return json_response({"name": name, "removed": gone}, 200 if gone else 202)

    async def add_pool(self, http: web.Request) -> web.Response:
        """POST /pools: add an empty pool."""
        pool = await read_model(http, NewPool)
        await self._store.edit(fleet_edits.add_pool(pool.name, pool.model_dump(exclude={"name"})))
        return json_response(pool.model_dump(), 201)

    async def set_pool_size(self, http: web.Request) -> web.Response:
        """PUT /pools/NAME: note the number of workers that a pool is to have. Nothing but the metrics reads it."""
        name, size = http.match_info["name"], await read_model(http, PoolSize)
        await self._store.edit(fleet_edits.set_pool_size(name, size.wanted_workers))
        return json_response({"name": name, **size.model_dump()})

    async def remove_pool(self, http: web.Request) -> web.Response:
        """DELETE /pools/NAME: remove a pool without workers and tasks."""
        await self._store.edit(fleet_edits.remove_pool(http.match_info["name"]))
        return json_response({"name": http.match_info["name"], "removed": True})

    async def _add(self, specs: Sequence[FleetWorker]) -> None:
        for spec in specs:
            if spec.name in self._registry.workers and not self._is_wanted(spec.name):
                message = f"worker `{spec.name}` is leaving; add it again once it has left"
                raise ApiError(409, message, code="worker_leaving")
        await self._store.edit(fleet_edits.add_workers(specs))

    async def _set_draining(self, name: str, *, draining: bool, moving: bool = False) -> web.Response:
        await self._store.edit(fleet_edits.set_draining(name, draining, moving=moving))
        return json_response(self._worker(self._registry.workers[name], leaving=False))

    def _is_wanted(self, name: str) -> bool:
        return any(spec.name == name for spec in self._registry.wanted.workers)

    def _worker(self, worker: Worker, leaving: bool) -> dict[str, Any]:
        return {
            "name": worker.name,
            "pool": worker.spec.pool,
            "role": worker.role,
            "url": worker.spec.url,
            "state": "leaving" if leaving else self._registry.state(worker.name),
            "moving": worker.moving,
            "reason": worker.reason,
            "in_flight": worker.load.total_requests,
            "tokens": worker.load.total_tokens,
        }
