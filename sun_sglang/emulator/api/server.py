"""The HTTP side of an emulated worker: SGLang's routes over an engine, and `POST /sun/fault`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH, TokenCount
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, PatchReport, WorkerCard
from sun_sglang.contracts.worker_key import UNAUTHORIZED_BODY, is_authorized
from sun_sglang.emulator.api.responses import DONE, Replies, event
from sun_sglang.emulator.api.server_info import loads, model_info, server_info
from sun_sglang.emulator.engine.engine import Engine, die
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.fault_injection import Fault, FaultInjector
from sun_sglang.emulator.protocol.errors import BadValueError, BrokenBodyError, InternalError, RefusalError
from sun_sglang.emulator.protocol.request import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    GenerationRequest,
    Reader,
    parse_ask,
    parse_object,
)
from sun_sglang.emulator.settings import Settings
from sun_sglang.strict import first_invalid

_BODY_LIMIT = 1 << 30
_SSE = {"Content-Type": "text/event-stream; charset=utf-8"}
_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)

_UNHOOKED = PatchReport(name="emulated", target="sun_sglang.sim", state="missing", detail="made to fail")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One worker's HTTP server.

    Args:
        settings: what it was told.
        card: what it says of itself.
        engine: what answers.
        reader: how text is read.
        faults: what it is to do wrong.
    """

    def __init__(
        self, settings: Settings, card: WorkerCard, engine: Engine, reader: Reader, faults: FaultInjector
    ) -> None:
        self.port = settings.port
        self.draining = False
        self._settings = settings
        self._card = card
        self._engine = engine
        self._reader = reader
        self._replies = Replies(reader.shapes)
        self._faults = faults
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._refusing: asyncio.Task[None] | None = None
        self._forever = asyncio.Event()

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[self._require_key, self._outermost])
        app.add_routes(self._routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def stop(self) -> None:
        """Stop listening and end what is under way."""
        if self._refusing is not None:
            self._refusing.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def drain(self) -> None:
        """Take nothing more and wait until what is under way has ended."""
        self.draining = True
        await self._engine.idle()

    async def fault(self, fault: Fault) -> None:
        """Turn a fault on; `die`, `refuse` and `close_bootstrap` take effect here."""
        self._faults.set(fault)
        self._engine.wake()
        if fault.kind == "hold" and fault.seconds is not None:
            self._engine.later(fault.seconds, self._engine.wake)
        if fault.kind == "die":
            asyncio.get_running_loop().call_later(0.05, die)
        if fault.kind == "close_bootstrap":
            await self._engine.close_bootstrap()
        if fault.kind == "refuse" and self._refusing is None:
            self._refusing = asyncio.create_task(self._refuse())

    def _routes(self) -> list[web.RouteDef]:
        get = {
            WORKER_CARD_PATH: self._get_card,
            "/health": self._health,
            "/health_generate": self._health,
            "/ready": self._health,
            "/v1/loads": self._loads,
            "/model_info": self._model_info,
            "/get_model_info": self._model_info,
            "/server_info": self._server_info,
            "/get_server_info": self._server_info,
            "/v1/models": self._models,
            "/flush_cache": self._flush,
            "/": self._root,
        }
        post = {
            GENERATE: self._generate,
            COMPLETIONS: self._generate,
            CHAT: self._generate,
            "/abort_request": self._abort,
            "/flush_cache": self._flush,
            "/tokenize": self._tokenize,
            "/v1/tokenize": self._tokenize,
            TOKEN_COUNT_PATH: self._count,
            "/sun/fault": self._set_fault,
        }
        return [web.get(path, handler) for path, handler in get.items()] + [
            *(web.post(path, handler) for path, handler in post.items()),
            web.put(GENERATE, self._generate),
            web.get("/v1/models/{model:.+}", self._model),
        ]

    # --- faults and errors ------------------------------------------------------------------------------------------

    @web.middleware
    async def _require_key(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        key = self._settings.key
        if key is not None and not is_authorized(request.headers.get("Authorization", ""), key):
            return web.Response(status=401, body=UNAUTHORIZED_BODY, content_type="application/json")
        return await handler(request)

    @web.middleware
    async def _outermost(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/sun/fault":
            await self._perhaps_hang("hang")
        try:
            return await handler(request)
        except RefusalError as e:
            return web.Response(status=e.status, body=e.body(), content_type=e.content_type)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as e:
            return _json({"detail": e.reason}, e.status)

    async def _perhaps_hang(self, *kinds: Any) -> None:
        """Wait for as long as one of these faults is on; a request that met it is not answered afterwards either."""
        if self._faults.meets(None, *kinds):
            await self._forever.wait()

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self._settings.host, self.port, reuse_address=True, backlog=1024)
        await self._site.start()
        self.port = self._runner.addresses[-1][1]

    async def _refuse(self) -> None:
        """Close the listening socket until the fault is over."""
        assert self._site is not None
        assert self._runner is not None
        await self._site.stop()
        server = self._runner.server
        assert server is not None
        for connection in list(server.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        await asyncio.sleep(self._faults.remaining())
        self._refusing = None
        await self._listen()

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.model_validate_json(await request.read())
        except ValidationError as e:
            return _json({"error": {"message": first_invalid(e, Fault).describe("the body")}}, 400)
        reply = _json({"ok": True, "fault": fault.model_dump()})
        if fault.kind == "refuse":
            # the reply is written before its connection is closed
            await reply.prepare(request)
            await reply.write_eof()
        await self.fault(fault)
        return reply

    # --- answers ----------------------------------------------------------------------------------------------------

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self._require_json(request)
        try:
            ask = parse_ask(request.path, raw, self._reader)
            await self._meet_fault(ask)
            answer = self._engine.submit(ask)
        except BadValueError as e:
            if request.path == GENERATE and _streams(raw):
                return await self._refuse_stream(request, e)
            raise
        except InternalError:
            if request.path == GENERATE and _streams(raw):
                return await self._break_stream(request)
            raise
        try:
            reply = await (self._stream(request, answer) if ask.stream else self._whole(answer))
        except asyncio.CancelledError:
            # SGLang sees at once that a stream is not read any more, and polls for it elsewhere
            patience = 0.0 if ask.stream else self._settings.emulation.disconnect_poll
            self._engine.later(patience, self._engine.forget, answer)
            raise
        except BaseException:
            self._engine.forget(answer)
            raise
        self._engine.forget(answer)
        return reply

    async def _meet_fault(self, ask: GenerationRequest) -> None:
        fault = self._faults.meets(ask.namespace, "lie", "status", "abort")
        if fault is None:
            return
        if fault.kind == "lie":
            await self._forever.wait()
        if fault.kind == "status":
            raise _MadeError(fault.status)
        answer = Generation(ask)
        answer.end({"type": "abort", "message": "made to abort", "status_code": None, "err_type": None})
        raise _AbortedError(orjson.dumps(self._replies.result(answer)))

    async def _whole(self, answer: Generation) -> web.Response:
        await answer.ended()
        if answer.failure is not None:
            raise answer.failure
        return _json(self._replies.result(answer))

    async def _stream(self, request: web.Request, answer: Generation) -> web.StreamResponse:
        out = web.StreamResponse(headers=_SSE)
        said = said_text = 0
        prepared = False
        while True:
            await answer.news()
            events = b"".join(self._replies.chunks(answer, said, said_text))
            said, said_text = len(answer.tokens), len(answer.text)
            if answer.finish is not None:
                events += self._last_events(answer)
            if not prepared:
                await out.prepare(request)
                prepared = True
            await out.write(events)
            if answer.finish is not None:
                await out.write_eof()
                return out

    def _last_events(self, answer: Generation) -> bytes:
        ask = answer.ask
        # after an error /v1/completions still sends the usage, /v1/chat/completions does not
        wants_usage = ask.usage and ask.endpoint != GENERATE
        if wants_usage and (answer.failure is None or ask.endpoint == COMPLETIONS):
            return self._replies.usage_chunk(answer) + DONE
        return DONE

    async def _refuse_stream(self, request: web.Request, error: BadValueError) -> web.StreamResponse:
        """SGLang's /generate sends its 200 before it looks at the request."""
        out = web.StreamResponse(headers=_SSE)
        await out.prepare(request)
        told = {"message": str(error), "type": "invalid_request_error", "code": 400, "retryable": False}
        await out.write(event({"error": told}) + DONE)
        return out

    async def _break_stream(self, request: web.Request) -> web.StreamResponse:
        """Send the 200 of a stream and close its connection, as SGLang's /generate does after an internal error."""
        out = web.StreamResponse(headers=_SSE)
        await out.prepare(request)
        assert request.transport is not None, "the handler of a client that left is cancelled"
        request.transport.close()
        return out

    def _require_json(self, request: web.Request) -> None:
        if request.path != GENERATE and request.content_type != "application/json":
            problem = "Unsupported Media Type: Only 'application/json' is allowed"
            raise BrokenBodyError("value_error", ("header", "content-type"), problem)
        if request.path == GENERATE and request.content_type != "application/json":
            raise BrokenBodyError("dataclass_type", ("body",), "Input should be a dictionary")

    async def _abort(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        self._engine.abort(str(body.get("rid") or ""), everything=bool(body.get("abort_all")))
        return web.Response()

    # --- about the worker -------------------------------------------------------------------------------------------

    async def _get_card(self, _: web.Request) -> web.Response:
        hooks = (_UNHOOKED,) if self._faults.on("unhooked") else ()
        card = self._card.model_copy(update={"leaving": self.draining, "patches": hooks})
        return web.Response(body=card.model_dump_json().encode(), content_type="application/json")

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.draining or self._faults.on("sick") else 200)

    async def _loads(self, request: web.Request) -> web.Response:
        query = request.query
        state = loads(self._engine, self._settings, include=query.get("include"), dp_rank=query.get("dp_rank"))
        return _json(state)

    async def _model_info(self, _: web.Request) -> web.Response:
        return _json(model_info(self._settings, self._card))

    async def _server_info(self, _: web.Request) -> web.Response:
        return _json(server_info(self._engine, self._settings, self._card))

    async def _models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [self._model_card()]})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name == self._settings.served_model_name:
            return _json(self._model_card())
        problem = f"The model '{name}' does not exist"
        told = {"message": problem, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
        return _json({"error": told}, 404)

    def _model_card(self) -> dict[str, Any]:
        name = self._settings.served_model_name
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "sglang",
            "root": name,
            "parent": None,
            "max_model_len": self._card.context_length,
        }

    async def _flush(self, request: web.Request) -> web.Response:
        try:
            patience = float(request.query.get("timeout") or 0)
            if patience < 0:
                raise ValueError("negative")
        except ValueError as e:
            problem = "Input should be greater than or equal to 0"
            raise BrokenBodyError("greater_than_equal", ("query", "timeout"), problem) from e
        try:
            async with asyncio.timeout(patience):
                await self._engine.idle()
        except TimeoutError:
            pass  # then it is still busy, which `flush` says
        if self._engine.flush():
            return web.Response(text=_FLUSHED)
        return web.Response(status=400, text="Flush cache failed.\n")

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        prompt, messages = body.get("prompt"), body.get("messages")
        if (prompt is None) == (messages is None):
            problem = "Value error, Exactly one of 'prompt' or 'messages' must be provided."
            raise BrokenBodyError("value_error", ("body",), problem)
        if isinstance(prompt, list):
            many = [self._reader.encode(str(p)) for p in prompt]
            return _json({"tokens": many, "count": [len(ids) for ids in many], "max_model_len": self._reader.context})
        ids = self._reader.encode(str(prompt)) if messages is None else self._reader.encode_chat(messages)
        return _json({"tokens": ids, "count": len(ids), "max_model_len": self._reader.context})

    async def _count(self, request: web.Request) -> web.Response:
        """Count a prompt's tokens, as `sun_sglang.worker.server` does."""
        body = parse_object(await request.read())
        prompt, messages = body.get("prompt"), body.get("messages")
        ids = self._reader.encode(str(prompt)) if messages is None else self._reader.encode_chat(messages)
        return _json(TokenCount(len(ids), exact=True)._asdict())

    async def _root(self, _: web.Request) -> web.Response:
        return _json("SGLang is running")


class _MadeError(RefusalError):
    """A fault that answers with a status."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__("made to fail")


class _AbortedError(RefusalError):
    """A fault that answers with an abort inside a 200."""

    status = 200

    def __init__(self, said: bytes) -> None:
        self._said = said
        super().__init__("made to abort")

    def body(self) -> bytes:
        """The reply's body."""
        return self._said


def _json(data: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")


def _streams(raw: bytes) -> bool:
    return bool(orjson.loads(raw).get("stream"))
