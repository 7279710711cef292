"""HTTP client of a deployment's router, for the supervisor and the `sun` command."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.router_access import RouterAccess

_REPORT_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
# for a change: a user requests it once, so a busy machine must not make it fail
_CHANGE_TIMEOUT = aiohttp.ClientTimeout(total=30.0)

Json = dict[str, Any]


class RouterClient:
    """One HTTP session with a router. Use it as an asynchronous context manager.

    Args:
        url: where the router listens.
        access: the admin key and the certificate; None for a router without both.
    """

    def __init__(self, url: str, access: RouterAccess | None = None) -> None:
        self._url = url
        self._access = access or RouterAccess()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._access.ssl)
        self._session = aiohttp.ClientSession(
            timeout=_REPORT_TIMEOUT, connector=connector, headers=self._access.headers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def tasks(self) -> TasksReport | None:
        """Return the router's report of its tasks; None while it does not answer."""
        assert self._session is not None
        try:
            async with self._session.get(f"{self._url}/tasks") as reply:
                return TasksReport.model_validate(await reply.json()) if reply.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def workers(self) -> list[Json]:
        """Return every worker of the fleet.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        found: list[Json] = (await self._call("GET", "/workers"))["workers"]
        return found

    async def add_pool(self, name: str, role: str, model: str) -> None:
        """Add an empty pool.

        Args:
            name: its name.
            role: `prefill` or `decode`.
            model: its model, as reports show it.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        await self._call("POST", "/pools", {"name": name, "role": role, "model": model})

    async def set_pool_size(self, name: str, workers: int) -> None:
        """Tell the router how many workers a pool is to have, for its metrics.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        await self._call("PUT", f"/pools/{_in_path(name)}", {"wanted_workers": workers})

    async def add_worker(self, name: str, pool: str, url: str, key: str | None) -> None:
        """Add a worker to a pool.

        Args:
            name: unique in the fleet.
            pool: the pool.
            url: where the worker listens.
            key: the worker key that it requires; None if it requires none.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        await self._call("POST", "/workers", {"name": name, "pool": pool, "url": url, "key": key})

    async def add_workers(self, workers: Sequence[FleetWorker]) -> None:
        """Add several workers in one change, or none where the router refuses one.

        Args:
            workers: with their pools, their addresses and their keys.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        body = {"workers": [worker.model_dump(mode="json") for worker in workers]}
        await self._call("POST", "/workers/batch", body)

    async def remove_worker(self, name: str, *, force: bool) -> None:
        """Remove a worker.

        Args:
            name: the worker.
            force: remove it at once; its requests in flight fail. Else the router drains it first.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        await self._call("DELETE", f"/workers/{_in_path(name)}{'?force=true' if force else ''}")

    async def change_worker(self, name: str, action: str, *, move: bool = False) -> None:
        """Drain a worker or resume it.

        Args:
            name: the worker.
            action: `drain` or `resume`.
            move: of `drain`: the answers of a decode worker go on elsewhere.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        await self._call("POST", f"/workers/{_in_path(name)}/{action}", {"move": True} if move else None)

    async def add_task(self, name: str, fields: Json, seconds: float) -> Json:
        """Add a task, and return it once the router serves it.

        Args:
            name: its name.
            fields: its pools, and its adapter, weight and caps where it has them.
            seconds: limit for the answer: a prefill worker may take long to load an adapter.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        return await self._call("POST", "/tasks", {"name": name, **fields}, _limit(seconds))

    async def change_task(self, name: str, changes: Json, seconds: float) -> Json:
        """Change fields of a task, and return the task. It may not be served so yet.

        Args:
            name: its name.
            changes: the fields to change.
            seconds: limit for the answer.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        return await self._call("PUT", f"/tasks/{_in_path(name)}", changes, _limit(seconds))

    async def remove_task(self, name: str) -> Json:
        """Remove a task, and return how many requests it has in flight.

        Raises:
            LaunchError: the router does not answer.
            UserError: the router refuses the request.
        """
        return await self._call("DELETE", f"/tasks/{_in_path(name)}")

    async def _call(
        self, method: str, path: str, body: object = None, timeout: aiohttp.ClientTimeout = _CHANGE_TIMEOUT
    ) -> Json:
        assert self._session is not None
        try:
            request = self._session.request(method, f"{self._url}{path}", json=body, timeout=timeout)
            async with request as reply:
                answer: Json = await reply.json()
        except TimeoutError as e:
            what = f"did not answer {method} {path} within {timeout.total:g} s"
            raise LaunchError(f"the router at {self._url} {what}; its log tells why") from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise LaunchError(f"the router at {self._url} does not answer: {e}") from e
        if "error" in answer:
            raise UserError(answer["error"]["message"])
        return answer


def _in_path(name: str) -> str:
    """Return a name as one part of a URL's path: with a slash or dots of its own it would be another path."""
    return quote(name, safe="")


def _limit(seconds: float) -> aiohttp.ClientTimeout:
    """Return the limit for a change of a task. The router's own limit ends before, and its answer has the reason."""
    assert _CHANGE_TIMEOUT.total is not None
    return aiohttp.ClientTimeout(total=max(seconds, 0.0) + _CHANGE_TIMEOUT.total)
