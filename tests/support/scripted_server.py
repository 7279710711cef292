"""A server with OpenAI's completions whose answers a test writes, piece by piece."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from aiohttp import web

from tests.support.ports import PORTS

NO_IDS: Mapping[str, Any] = MappingProxyType({})
Handler = Callable[[dict[str, Any], web.Request], Awaitable[web.StreamResponse]]


class ScriptedServer:
    """Answers each request with `handler`; keeps the bodies and the paths."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.bodies.append(body)
        self.requests.append(request)
        return await self.handler(body, request)


@asynccontextmanager
async def scripted_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Serve on a port of 127.0.0.1; whatever still runs at the end is cut off."""
    server = ScriptedServer(handler)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    port = next(PORTS)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


class Pieces:
    """A handler of one answer: it sends each piece when the test gives it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def give(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._queue.put_nowait(piece)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def __call__(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        while (piece := await self._queue.get()) is not None:
            await reply.write(piece)
        return reply


def token_event(
    made: int, *, text: str = " word", prompt: int = 4, finish: str | None = None, ids: Mapping[str, Any] = NO_IDS
) -> bytes:
    """Return an event as SGLang sends it with `continuous_usage_stats`.

    Args:
        made: tokens so far.
        text: the text of the event.
        prompt: tokens of the prompt.
        finish: finish reason.
        ids: what `return_token_ids` adds: `token_ids`, and `prompt_token_ids` in the first event.
    """
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "matched_stop": None, **ids}
    return event({"id": "x", "object": "text_completion", "choices": [choice], "usage": usage})


def usage_event(made: int, *, prompt: int = 4, cached: int | None = None) -> bytes:
    """Return the event with the usage of the whole request."""
    usage: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return event({"id": "x", "object": "text_completion", "choices": [], "usage": usage})


def event(content: object) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def whole_stream(made: int, *, finish: str = "length", cached: int | None = 0) -> bytes:
    """Return a whole answer of so many tokens."""
    events = [token_event(i, finish=finish if i == made else None) for i in range(1, made + 1)]
    return b"".join([*events, usage_event(made, cached=cached), DONE])


def stream_with_ids(prompt: Sequence[int], answer: Sequence[int], *, cached: int | None = 0) -> bytes:
    """Return a whole answer with the ids of its tokens, as SGLang and vLLM send it with `return_token_ids`."""
    events = []
    for made, token in enumerate(answer, 1):
        ids: dict[str, Any] = {"token_ids": [token]} | ({"prompt_token_ids": list(prompt)} if made == 1 else {})
        finish = "length" if made == len(answer) else None
        events.append(token_event(made, prompt=len(prompt), finish=finish, ids=ids))
    return b"".join([*events, usage_event(len(answer), prompt=len(prompt), cached=cached), DONE])


async def answer_at_once(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
    """Answer as asked, without a pause; the lists of tasks are empty."""
    if request.method == "GET":
        return web.Response(status=404)
    return web.Response(body=whole_stream(body["max_tokens"]), content_type="text/event-stream")
