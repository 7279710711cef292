"""The HTTP server of an emulated worker: the route table, the checks of every request, and `POST /sun/fault`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import ValidationError

from sun_sglang.contracts.adapters_report import ADAPTERS_PATH
from sun_sglang.contracts.module import MODULES_PATH
from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, WorkerCard
from sun_sglang.contracts.worker_key import UNAUTHORIZED_BODY, is_authorized
from sun_sglang.emulator.api.adapter_handlers import AdapterHandlers
from sun_sglang.emulator.api.generation_handlers import GenerationHandlers
from sun_sglang.emulator.api.info_handlers import InfoHandlers
from sun_sglang.emulator.api.json_reply import json_reply
from sun_sglang.emulator.api.module_handlers import ModuleHandlers
from sun_sglang.emulator.engine.adapters import AdapterRegistry
from sun_sglang.emulator.engine.engine import Engine, die
from sun_sglang.emulator.engine.modules import ModuleRegistry
from sun_sglang.emulator.fault_injection import Fault, FaultInjector
from sun_sglang.emulator.protocol.errors import RefusalError
from sun_sglang.emulator.protocol.request import CHAT, COMPLETIONS, GENERATE
from sun_sglang.emulator.protocol.request_parser import RequestParser
from sun_sglang.emulator.settings import Settings
from sun_sglang.strict import first_invalid

FAULT_PATH = "/sun/fault"
_BODY_LIMIT = 1 << 30
# so that the reply to the command is sent before the process ends
_DIE_AFTER_S = 0.05

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One worker's HTTP server.

    Args:
        settings: the worker's settings.
        card: the worker's card.
        engine: the worker's engine.
        parser: parses requests.
        faults: the faults to simulate.
        adapters: the worker's LoRA adapters; None on a worker without LoRA.
        modules: the worker's modules; None on a worker that serves its own model alone.

    Attributes:
        port: the TCP port; the actual one once the server listens.
    """

    def __init__(
        self,
        settings: Settings,
        card: WorkerCard,
        engine: Engine,
        parser: RequestParser,
        faults: FaultInjector,
        adapters: AdapterRegistry | None,
        modules: ModuleRegistry | None,
    ) -> None:
        self.port = settings.port
        self._host = settings.host
        self._key = settings.key
        self._engine = engine
        self._faults = faults
        self._adapters = adapters
        self._modules = modules
        self._info = InfoHandlers(settings, card, engine, parser, faults, adapters)
        self._adapter_routes = AdapterHandlers(adapters)
        self._module_routes = ModuleHandlers(modules, engine)
        self._generation = GenerationHandlers(
            engine,
            parser,
            faults,
            adapters,
            modules,
            is_prefill=settings.role == "prefill",
            disconnect_poll=settings.emulation.disconnect_poll,
        )
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._refusing: asyncio.Task[None] | None = None
        self._forever = asyncio.Event()

    async def start(self) -> None:
        """Start to listen."""
        app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[self._require_key, self._report_errors])
        app.add_routes(self._routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def stop(self) -> None:
        """Stop listening and cancel every request."""
        if self._refusing is not None:
            self._refusing.cancel()
        await self._adapter_routes.close()
        if self._modules is not None:
            self._modules.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def drain(self) -> None:
        """Report unhealthy from now on, and wait until no request is in flight."""
        self._info.draining = True
        await self._engine.wait_idle()

    async def inject(self, fault: Fault) -> None:
        """Activate a fault; `die`, `refuse`, `close_bootstrap`, `lose_adapters` and `lose_modules` take effect here."""
        self._faults.set(fault)
        self._engine.wake()
        for registry, loss in ((self._adapters, "lose_adapters"), (self._modules, "lose_modules")):
            if registry is None:
                continue
            registry.loads.notice_faults()
            if fault.seconds is not None:
                self._engine.call_later(fault.seconds, registry.loads.notice_faults)
            if fault.kind == loss:
                registry.lose()
        if fault.kind == "hold" and fault.seconds is not None:
            self._engine.call_later(fault.seconds, self._engine.wake)
        if fault.kind == "die":
            self._engine.call_later(_DIE_AFTER_S, die)
        if fault.kind == "close_bootstrap":
            await self._engine.close_bootstrap()
        if fault.kind == "refuse" and self._refusing is None:
            self._refusing = asyncio.create_task(self._refuse())

    def _routes(self) -> list[web.RouteDef]:
        info, generation, adapters = self._info, self._generation, self._adapter_routes
        modules = self._module_routes
        get: dict[str, Handler] = {
            WORKER_CARD_PATH: info.card,
            ADAPTERS_PATH: adapters.page,
            MODULES_PATH: modules.report,
            "/health": info.health,
            "/health_generate": info.health,
            "/ready": info.health,
            "/v1/loads": info.loads,
            "/model_info": info.model_info,
            "/get_model_info": info.model_info,
            "/server_info": info.server_info,
            "/get_server_info": info.server_info,
            "/v1/models": info.models,
            "/v1/models/{model:.+}": info.model,
            "/flush_cache": info.flush_cache,
            "/": info.root,
        }
        post: dict[str, Handler] = {
            GENERATE: generation.generate,
            COMPLETIONS: generation.generate,
            CHAT: generation.generate,
            "/abort_request": generation.abort,
            "/load_lora_adapter": adapters.load,
            "/unload_lora_adapter": adapters.unload,
            MODULES_PATH: modules.add,
            "/flush_cache": info.flush_cache,
            "/tokenize": info.tokenize,
            "/v1/tokenize": info.tokenize,
            TOKEN_COUNT_PATH: info.count_tokens,
            FAULT_PATH: self._set_fault,
        }
        return [
            *(web.get(path, handler) for path, handler in get.items()),
            *(web.post(path, handler) for path, handler in post.items()),
            web.put(GENERATE, generation.generate),
            web.delete(MODULES_PATH + "/{revision}", modules.remove),
        ]

    @web.middleware
    async def _require_key(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._key is not None and not is_authorized(request.headers.get("Authorization", ""), self._key):
            return web.Response(status=401, body=UNAUTHORIZED_BODY, content_type="application/json")
        return await handler(request)

    @web.middleware
    async def _report_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != FAULT_PATH and self._faults.apply(None, "hang"):
            # a request that met the fault is not answered after its end either
            await self._forever.wait()
        try:
            return await handler(request)
        except RefusalError as e:
            return web.Response(status=e.status, body=e.body(), content_type=e.content_type)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as e:
            return json_reply({"detail": e.reason}, e.status)

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self._host, self.port, reuse_address=True, backlog=1024)
        await self._site.start()
        self.port = self._runner.addresses[-1][1]

    async def _refuse(self) -> None:
        """Close the listening socket and every connection until the fault ends."""
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
            return json_reply({"error": {"message": first_invalid(e, Fault).describe("the body")}}, 400)
        reply = json_reply({"ok": True, "fault": fault.model_dump()})
        if fault.kind == "refuse":
            # the reply is written before its connection is closed
            await reply.prepare(request)
            await reply.write_eof()
        await self.inject(fault)
        return reply
