"""Handlers of `/generate`, `/v1/completions`, `/v1/chat/completions` and `/abort_request`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import orjson
from aiohttp import web

from sun_sglang.contracts.replay import tokens_comment
from sun_sglang.emulator.api.json_reply import json_reply
from sun_sglang.emulator.api.responses import Responses
from sun_sglang.emulator.engine.adapter_files import AdapterRefusedError
from sun_sglang.emulator.engine.adapters import AdapterRegistry
from sun_sglang.emulator.engine.engine import Engine
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.engine.modules import ModuleRegistry, refuse_modules
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.emulator.protocol.body import parse_object
from sun_sglang.emulator.protocol.errors import InternalError, InvalidBodyError, InvalidValueError, RefusalError
from sun_sglang.emulator.protocol.replies import DONE, sse_event
from sun_sglang.emulator.protocol.request import GENERATE, GenerationRequest
from sun_sglang.emulator.protocol.request_parser import RequestParser
from sun_sglang.errors import RequestError

_SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


class GenerationHandlers:
    """Serves generation requests.

    Args:
        engine: generates.
        parser: parses the requests' bodies.
        faults: the faults to simulate.
        adapters: the worker's LoRA adapters; None on a worker without LoRA.
        modules: the worker's modules; None on a worker that serves its own model alone.
        is_prefill: whether it is a prefill worker.
        disconnect_poll: seconds until SGLang detects that the client of a request without a stream is gone.
    """

    def __init__(
        self,
        engine: Engine,
        parser: RequestParser,
        faults: FaultInjector,
        adapters: AdapterRegistry | None,
        modules: ModuleRegistry | None,
        *,
        is_prefill: bool,
        disconnect_poll: float,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._modules = modules
        self._is_prefill = is_prefill
        self._parser = parser
        self._responses = Responses(parser.shapes)
        self._faults = faults
        self._disconnect_poll = disconnect_poll
        self._forever = asyncio.Event()

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer a generation request, with its module in host memory until then."""
        async with AsyncExitStack() as uses:
            return await self._generate(request, uses)

    async def _generate(self, request: web.Request, uses: AsyncExitStack) -> web.StreamResponse:
        raw = await request.read()
        _require_json(request)
        try:
            parsed = self._parser.parse(request.path, raw)
            await self._simulate_fault(parsed)
            await self._hold_module(parsed, uses)
            generation = await self._submit(parsed)
        except InvalidValueError as e:
            if request.path == GENERATE and _asks_for_stream(raw):
                return await _refuse_stream(request, e)
            raise
        except InternalError:
            if request.path == GENERATE and _asks_for_stream(raw):
                return await _break_stream(request)
            raise
        try:
            reply = await (self._stream(request, generation) if parsed.stream else self._whole(generation))
        except asyncio.CancelledError:
            # SGLang detects the client of a stream that is gone at once, and polls for the others
            delay = 0.0 if parsed.stream else self._disconnect_poll
            self._engine.call_later(delay, self._engine.release, generation)
            raise
        except BaseException:
            self._engine.release(generation)
            raise
        self._engine.release(generation)
        return reply

    async def abort(self, request: web.Request) -> web.Response:
        """Answer `POST /abort_request`."""
        body = parse_object(await request.read())
        self._engine.abort(str(body.get("rid") or ""), everything=bool(body.get("abort_all")))
        return web.Response()

    async def _hold_module(self, request: GenerationRequest, uses: AsyncExitStack) -> None:
        """Keep a request's module in host memory until `uses` ends; decode workers have no modules."""
        if not self._is_prefill:
            return
        try:
            if self._modules is None:
                refuse_modules(request.module)
            else:
                await uses.enter_async_context(self._modules.use(request.module))
        except RequestError as e:
            raise InvalidValueError(str(e), request.endpoint) from e

    def _weights(self, request: GenerationRequest) -> str:
        return "" if self._modules is None else self._modules.weights_of(request.module)

    async def _submit(self, request: GenerationRequest) -> Generation:
        """Give a request to the engine, with its adapter."""
        if request.adapter is None:
            return self._engine.submit(request, weights=self._weights(request))
        assert self._adapters is not None, "the parser refuses adapters on a worker without LoRA"
        try:
            adapter = await self._adapters.acquire(request.adapter)
        except AdapterRefusedError as e:
            raise InvalidValueError(str(e), request.endpoint) from e
        try:
            return self._engine.submit(request, adapter, self._weights(request))
        except BaseException:
            adapter.release()
            raise

    async def _simulate_fault(self, request: GenerationRequest) -> None:
        fault = self._faults.apply(request.namespace, "unresponsive", "status", "abort")
        if fault is None:
            return
        if fault.kind == "unresponsive":
            await self._forever.wait()
        if fault.kind == "status":
            raise _InjectedStatusError(fault.status)
        generation = Generation(request)
        generation.end({"type": "abort", "message": "made to abort", "status_code": None, "err_type": None})
        raise _InjectedAbortError(orjson.dumps(self._responses.whole(generation)))

    async def _whole(self, generation: Generation) -> web.Response:
        await generation.wait_finish()
        if generation.failure is not None:
            raise generation.failure
        return json_reply(self._responses.whole(generation))

    async def _stream(self, request: web.Request, generation: Generation) -> web.StreamResponse:
        out = web.StreamResponse(headers=_SSE)
        tokens = characters = 0
        while True:
            await generation.wait_change()
            events = b"".join(self._responses.events(generation, tokens, characters))
            if generation.request.repeated is not None and len(generation.tokens) > tokens:
                events = tokens_comment(generation.tokens[tokens:]) + events
            tokens, characters = len(generation.tokens), len(generation.text)
            finished = generation.finish is not None
            if finished:
                events += self._responses.last_events(generation)
            if not out.prepared:
                await out.prepare(request)
            await out.write(events)
            if finished:
                await out.write_eof()
                return out


class _InjectedStatusError(RefusalError):
    """The reply of a `status` fault.

    Args:
        status: HTTP status.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__("made to fail")


class _InjectedAbortError(RefusalError):
    """The reply of an `abort` fault: an abort inside a 200.

    Args:
        reply: the reply's body.
    """

    status = 200

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        super().__init__("made to abort")

    def body(self) -> bytes:
        """Return the reply's body."""
        return self._reply


async def _refuse_stream(request: web.Request, error: InvalidValueError) -> web.StreamResponse:
    """Send an error event inside a 200: SGLang's `/generate` sends the status before it checks the request."""
    out = web.StreamResponse(headers=_SSE)
    await out.prepare(request)
    reported = {"message": str(error), "type": "invalid_request_error", "code": 400, "retryable": False}
    await out.write(sse_event({"error": reported}) + DONE)
    return out


async def _break_stream(request: web.Request) -> web.StreamResponse:
    """Send the 200 of a stream and close its connection, as SGLang's `/generate` does after an internal error."""
    out = web.StreamResponse(headers=_SSE)
    await out.prepare(request)
    assert request.transport is not None, "aiohttp cancels the handler of a client that is gone"
    request.transport.close()
    return out


def _require_json(request: web.Request) -> None:
    if request.content_type == "application/json":
        return
    if request.path == GENERATE:
        raise InvalidBodyError("dataclass_type", ("body",), "Input should be a dictionary")
    problem = "Unsupported Media Type: Only 'application/json' is allowed"
    raise InvalidBodyError("value_error", ("header", "content-type"), problem)


def _asks_for_stream(raw: bytes) -> bool:
    return bool(orjson.loads(raw).get("stream"))
