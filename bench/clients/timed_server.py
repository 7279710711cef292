"""A server with OpenAI's completions whose TTFT and ITL are known.

    python -m sun_sglang.bench.clients.timed_server --port 8100 --ttft 0.1 --itl 0.05

Each token is sent at a fixed time after the arrival of its request, so a late token does not delay the next one. At its
end the server prints by how much it was late itself, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
from array import array
from functools import cache
from statistics import fmean
from typing import Annotated

import orjson
import typer
from aiohttp import web

from sun_sglang.bench.load.metrics.percentile import percentile

_TEXT = " word"
_HEADERS = {"Content-Type": "text/event-stream"}


class TimedServer:
    """The routes of the server.

    Args:
        ttft: seconds from a request to its first token.
        itl: seconds between two tokens.

    Attributes:
        late_by: by how much each token was sent late, in seconds.
    """

    def __init__(self, ttft: float, itl: float) -> None:
        self.late_by = array("d")
        self._ttft = ttft
        self._itl = itl

    def application(self) -> web.Application:
        """Return the application."""
        application = web.Application()
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/completions", self._complete)
        return application

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "timed", "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        body = orjson.loads(await request.read())
        wanted = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        reply = web.StreamResponse(headers=_HEADERS)
        for made in range(1, wanted + 1):
            due = arrived + self._ttft + (made - 1) * self._itl
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.late_by.append(loop.time() - due)
            if made == 1:
                await reply.prepare(request)
            await reply.write(_event(made, "length" if made == wanted else None))
        await reply.write(b"data: [DONE]\n\n")
        await reply.write_eof()
        return reply


@cache
def _event(made: int, finish: str | None) -> bytes:
    choice = {"index": 0, "text": _TEXT, "logprobs": None, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": made, "total_tokens": made + 1}
    fields = {"id": "timed", "object": "text_completion", "model": "timed", "choices": [choice], "usage": usage}
    return b"data: " + orjson.dumps(fields) + b"\n\n"


async def serve(port: int, ttft: float, itl: float) -> TimedServer:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT, and return the server."""
    server = TimedServer(ttft, itl)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()
    await runner.cleanup()
    return server


def main(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")],
    ttft: Annotated[float, typer.Option(help="Seconds to the first token.")] = 0.1,
    itl: Annotated[float, typer.Option(help="Seconds between two tokens.")] = 0.05,
) -> None:
    """Serve, and print the server's own lateness at the end: `{"tokens": N, "late_ms": {"mean": ..., "p99": ...}}`."""
    import uvloop

    late = sorted(uvloop.run(serve(port, ttft, itl)).late_by)
    shown = {"mean": 1000 * fmean(late), "p99": 1000 * percentile(late, 99)} if late else {}
    typer.echo(json.dumps({"tokens": len(late), "late_ms": shown}))


if __name__ == "__main__":
    typer.run(main)
