"""The worker key: the secret that a worker requires of every HTTP request, and that the router sends.

It comes in an environment variable, never on a command line, which every user of the machine can read.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Any, Send], Awaitable[None]]

VARIABLE = "SUN_WORKER_KEY"
REFUSAL = (
    b'{"error":{"message":"this worker requires its deployment\'s worker key: Authorization: Bearer KEY","code":401}}'
)


def read_key(environ: Mapping[str, str]) -> str | None:
    """Return the worker key of a process; None where it requires none."""
    return environ.get(VARIABLE) or None


def bearer(key: str | None) -> dict[str, str]:
    """Return the headers that carry a key; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def is_authorized(authorization: str, key: str) -> bool:
    """Return whether an `Authorization` header carries the key; compares in constant time."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(given.encode("utf-8", "replace"), key.encode())


class KeyRequired:
    """ASGI middleware that answers 401 to every HTTP request without the key, whatever its path.

    Args:
        app: the application behind it.
        key: the worker key.
    """

    def __init__(self, app: App, key: str) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """Pass on what is authorized, and the server's own start and end."""
        if scope["type"] == "lifespan" or is_authorized(_authorization(scope), self._key):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REFUSAL))]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": REFUSAL})


def _authorization(scope: dict[str, Any]) -> str:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return values[0].decode("latin-1") if len(values) == 1 else ""
