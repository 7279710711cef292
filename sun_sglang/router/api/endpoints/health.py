"""Probes: whether this process lives, and whether the router serves tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlencode

from aiohttp import web

from sun_sglang.router.api.endpoints.generation import Draining
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.api.siblings.sibling_processes import SIBLING_HEADER, SiblingProcesses
from sun_sglang.router.auth.access import AccessControl
from sun_sglang.router.errors import ApiError
from sun_sglang.router.workers.registry import Registry

Status = Literal["ok", "unready", "draining"]


class HealthHandlers:
    """Handlers of the endpoints for probes. They require no key, and name no task to a client without one.

    Args:
        registry: workers and paths.
        draining: whether the router drains.
        siblings: the other processes of the router: a client's next connection may reach any of them.
        access: the keys of clients that ask about tasks.
    """

    def __init__(
        self, registry: Registry, draining: Draining, siblings: SiblingProcesses, access: AccessControl
    ) -> None:
        self._registry = registry
        self._draining = draining
        self._siblings = siblings
        self._access = access
        self._siblings_check: asyncio.Task[bool] | None = None

    async def live(self, _: web.Request) -> web.Response:
        """GET /livez: 200 while this process handles requests, also while it drains."""
        return json_response({"status": "ok"})

    async def ready(self, http: web.Request) -> web.Response:
        """GET /readyz, /ready, /ping: 200 while every process of the router serves some task.

        With the query parameter `task`: while every process serves that task, which requires a key that may call it.
        """
        task = http.query.get("task")
        if task is None:
            return _response(await self._status(http.headers))
        key = self._access.check("key", http.headers)
        tasks = self._registry.task_names if key is None else key.visible(self._registry.task_names)
        if task not in tasks:
            raise ApiError(404, f"no task is named `{task}`", param="task", code="model_not_found")
        return _response(await self._task_status(task, http.headers))

    async def health(self, http: web.Request) -> web.Response:
        """GET /health: as /readyz, and the list of tasks that are not served for a client that may call them."""
        status = await self._status(http.headers)
        visible = self._visible_tasks(http.headers)
        if visible is None:
            return _response(status)
        return _response(status, unserved_tasks=[task for task in self._registry.unserved() if task in visible])

    def _visible_tasks(self, headers: Mapping[str, str]) -> Sequence[str] | None:
        """Return the tasks that a client may call; None without a key where the router has keys."""
        if not self._access.requires_keys:
            return self._registry.task_names
        key = self._access.identify(headers)
        return None if key is None else key.visible(self._registry.task_names)

    async def _status(self, headers: Mapping[str, str]) -> Status:
        if self._draining.active:
            return "draining"
        if not any(map(self._registry.usable, self._registry.task_names)):
            return "unready"
        return "ok" if SIBLING_HEADER in headers or await self._siblings_ready() else "unready"

    async def _task_status(self, task: str, headers: Mapping[str, str]) -> Status:
        if self._draining.active:
            return "draining"
        if not self._registry.usable(task):
            return "unready"
        replies = await self._siblings.broadcast("GET", f"/readyz?{urlencode({'task': task})}", headers)
        return "unready" if None in replies.values() else "ok"

    async def _siblings_ready(self) -> bool:
        """Return whether all other processes are ready. Clients that ask at the same time share the answer."""
        if self._siblings_check is None:
            self._siblings_check = asyncio.create_task(self._ask_siblings())
            self._siblings_check.add_done_callback(self._forget_check)
        # shielded: other clients may wait for the same answer when this one leaves
        return await asyncio.shield(self._siblings_check)

    async def _ask_siblings(self) -> bool:
        return None not in (await self._siblings.broadcast("GET", "/readyz", {})).values()

    def _forget_check(self, _: asyncio.Task[bool]) -> None:
        self._siblings_check = None


def _response(status: Status, **more: object) -> web.Response:
    return json_response({"status": status, **more}, 200 if status == "ok" else 503)
