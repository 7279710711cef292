"""What the router says of tasks and workers, read from its `/tasks`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.router_access import RouterAccess

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
# of a change, which a person asked for and nobody asks for again: a busy machine is no reason to say that it failed
_CALL_TIMEOUT = aiohttp.ClientTimeout(total=30.0)


class RouterClient:
    """Asks a router; one session."""

    def __init__(self, url: str, access: RouterAccess | None = None) -> None:
        self._url = url
        self._access = access or RouterAccess()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._access.ssl)
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, headers=self._access.headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask the router's admin API for something.

        Raises:
            LaunchError: the router does not answer.
            UserError: it refuses; its own words.
        """
        assert self._session is not None
        try:
            asked = self._session.request(method, f"{self._url}{path}", json=body, timeout=_CALL_TIMEOUT)
            async with asked as reply:
                said: dict[str, Any] = await reply.json()
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise LaunchError(f"the router at {self._url} does not answer: {e}") from e
        if "error" in said:
            raise UserError(said["error"]["message"])
        return said

    async def tasks(self) -> TasksReport | None:
        """What the router says now; None while it does not answer."""
        assert self._session is not None
        try:
            async with self._session.get(f"{self._url}/tasks") as reply:
                return TasksReport.model_validate(await reply.json()) if reply.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
