"""The check of the worker key in front of every route of a worker's HTTP server."""

from __future__ import annotations

from typing import Any

from sun_sglang.contracts.worker_key import UNAUTHORIZED_BODY, is_authorized
from sun_sglang.worker.asgi import App, Send


class WorkerKeyMiddleware:
    """ASGI middleware that answers 401 to every HTTP request without the worker key, on every path.

    Args:
        app: the application behind it.
        key: the worker key.
    """

    def __init__(self, app: App, key: str) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """Pass on authorized requests, and the events of the server's own start and end."""
        if scope["type"] == "lifespan" or is_authorized(_authorization(scope), self._key):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(UNAUTHORIZED_BODY))]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": UNAUTHORIZED_BODY})


def _authorization(scope: dict[str, Any]) -> str:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return values[0].decode("latin-1") if len(values) == 1 else ""
