"""Send commands to a running launcher over its control socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from pydantic import BaseModel

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.files.socket_directory import SocketDirectory
from sun_sglang.launch.control.server import CONTROL_SOCKET

# the launcher repeats the last line of a stream every few seconds
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=60.0)


class ControlClient:
    """One session with a launcher. Use it as an asynchronous context manager.

    Args:
        run_dir: the deployment's run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._directory = SocketDirectory(run_dir)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        try:
            connector = aiohttp.UnixConnector(self._directory.address(CONTROL_SOCKET))
        except OSError as e:
            raise UserError(f"{self._run_dir} cannot be read ({e.strerror or e})") from e
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        self._directory.close()

    async def call(self, method: str, path: str) -> None:
        """Send a command without a body, and wait until the launcher has accepted it.

        Raises:
            UserError: the launcher refuses the command, or this user may not give commands.
            LaunchError: the launcher cannot do it now, or is gone.
        """
        async with self._open(method, path, None):
            return

    async def stream(self, path: str, body: BaseModel) -> AsyncIterator[bytes]:
        """Send a command, and yield the lines of its answer as they come.

        Raises:
            UserError: the launcher refuses the command, or this user may not give commands.
            LaunchError: the launcher cannot do it now, or is gone.
        """
        async with self._open("POST", path, body) as reply:
            async for line in reply.content:
                yield line

    @asynccontextmanager
    async def _open(self, method: str, path: str, body: BaseModel | None) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        data = None if body is None else body.model_dump_json()
        socket = self._run_dir / CONTROL_SOCKET
        try:
            async with self._session.request(method, f"http://launcher{path}", data=data) as reply:
                await _require_success(reply)
                yield reply
        except aiohttp.ClientConnectorError as e:
            if isinstance(e.os_error, PermissionError):
                raise UserError(f"{socket} belongs to another user, who alone may control this deployment") from e
            if isinstance(e.os_error, FileNotFoundError):
                raise LaunchError(
                    f"there is no {socket}: the launcher is gone, or is of a version without a control socket"
                ) from e
            raise LaunchError(f"the launcher that made {socket} is gone ({e.os_error.strerror})") from e
        except TimeoutError as e:
            raise LaunchError(f"the launcher does not answer at {socket}") from e
        except (aiohttp.ClientError, OSError) as e:
            raise LaunchError(f"the launcher at {socket} ended before it had answered ({e})") from e


async def _require_success(reply: aiohttp.ClientResponse) -> None:
    if reply.status < 300:
        return
    try:
        message = (await reply.json())["error"]["message"]
    except (aiohttp.ContentTypeError, ValueError, LookupError, TypeError):
        message = f"the launcher answered {reply.status} to {reply.method} {reply.url.path}: {await reply.text()}"
    raise UserError(message) if reply.status in (400, 403) else LaunchError(message)
