"""Listen on the control socket, and refuse every user but the launcher's own."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.files.socket_directory import SocketDirectory
from sun_sglang.strict import first_invalid

CONTROL_SOCKET = "control.sock"
"""File name of the control socket in a run directory."""

# struct ucred (socket(7)): pid, uid, gid
_UCRED = struct.Struct("iII")

_Model = TypeVar("_Model", bound=BaseModel)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlServer:
    """The launcher's side of the control socket. The caller holds the lock on the run directory (`launch/claim.py`).

    A handler may raise `UserError` (the client asked for something wrong; status 400) or `LaunchError` (the deployment
    cannot do it now; 409). It is cancelled when its client leaves.

    Args:
        run_dir: the run directory.
        routes: the commands.
    """

    def __init__(self, run_dir: Path, routes: Iterable[web.RouteDef]) -> None:
        self._run_dir = run_dir
        self._directory = SocketDirectory(run_dir)
        application = web.Application(middlewares=[_check_peer, _report_errors])
        application.add_routes(routes)
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        self._is_open = False

    async def open(self) -> None:
        """Listen. A socket that a killed launcher left behind is replaced.

        Raises:
            LaunchError: the directory takes no socket.
        """
        await self._runner.setup()
        partial = f".{CONTROL_SOCKET}.{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                (self._run_dir / partial).unlink()
            listener.bind(self._directory.address(partial))
            # before it listens: until then the kernel refuses every connection
            (self._run_dir / partial).chmod(0o600)
            await web.SockSite(self._runner, listener).start()
            (self._run_dir / partial).replace(self._run_dir / CONTROL_SOCKET)
            self._is_open = True
        except OSError as e:
            with suppress(OSError):
                (self._run_dir / partial).unlink()
            await self.close()
            listener.close()
            raise LaunchError(
                f"{self._run_dir} takes no Unix socket ({e.strerror or e}), which `sun workers restart` needs; give "
                "another --run-dir"
            ) from e

    async def close(self) -> None:
        """Remove the socket and end every connection."""
        if self._is_open:
            self._is_open = False
            with suppress(OSError):
                (self._run_dir / CONTROL_SOCKET).unlink()
        await self._runner.cleanup()
        self._directory.close()


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket, as it was when that process connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])


async def read_body(http: web.Request, model: type[_Model]) -> _Model:
    """Return the body of a request.

    Raises:
        UserError: it is no JSON, or a value is wrong.
    """
    try:
        return model.model_validate_json(await http.read())
    except ValidationError as e:
        raise UserError(first_invalid(e, model).describe("the request")) from e


@web.middleware
async def _check_peer(request: web.Request, handler: _Handler) -> web.StreamResponse:
    # the file's permissions say the same, and a directory may ignore them (a mount without owners)
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    own = os.geteuid()
    if connection is None or (uid := peer_uid(connection)) != own:
        found = "the client has left" if connection is None else f"not user {uid}"
        return _error(403, f"only the launcher's own user ({own}) may control it, {found}")
    return await handler(request)


@web.middleware
async def _report_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UserError as e:
        return _error(400, str(e))
    except LaunchError as e:
        return _error(409, str(e))


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
