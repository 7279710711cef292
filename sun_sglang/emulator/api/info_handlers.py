"""Handlers about the worker and its prompts: card, health, loads, model, cache and token counts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from sun_sglang.contracts.token_count import TokenCount
from sun_sglang.contracts.worker_card import PatchReport, WorkerCard
from sun_sglang.emulator.api.json_reply import json_reply
from sun_sglang.emulator.api.server_info import loads, model_info, server_info
from sun_sglang.emulator.engine.adapters import AdapterRegistry
from sun_sglang.emulator.engine.engine import Engine
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.emulator.protocol.body import parse_object
from sun_sglang.emulator.protocol.errors import InvalidBodyError
from sun_sglang.emulator.protocol.request_parser import RequestParser
from sun_sglang.emulator.settings import Settings

_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)
_UNHOOKED = PatchReport(name="emulated", target="sun_sglang.emulator", state="missing", detail="made to fail")


class InfoHandlers:
    """Serves every route that generates nothing.

    Args:
        settings: the worker's settings.
        card: the worker's card.
        engine: the worker's engine.
        parser: tokenizes prompts.
        faults: the faults to simulate.
        adapters: the worker's LoRA adapters; None on a worker without LoRA.

    Attributes:
        draining: whether the worker ends once no request is in flight.
    """

    def __init__(
        self,
        settings: Settings,
        card: WorkerCard,
        engine: Engine,
        parser: RequestParser,
        faults: FaultInjector,
        adapters: AdapterRegistry | None,
    ) -> None:
        self.draining = False
        self._adapters = adapters
        self._settings = settings
        self._card = card
        self._engine = engine
        self._parser = parser
        self._faults = faults

    async def root(self, _: web.Request) -> web.Response:
        """Answer `GET /`."""
        return json_reply("SGLang is running")

    async def card(self, _: web.Request) -> web.Response:
        """Answer `GET /sun/worker`."""
        hooks = (_UNHOOKED,) if self._faults.active("unhooked") else ()
        card = self._card.model_copy(update={"leaving": self.draining, "patches": hooks})
        return web.Response(body=card.model_dump_json().encode(), content_type="application/json")

    async def health(self, _: web.Request) -> web.Response:
        """Answer `GET /health`."""
        return web.Response(status=503 if self.draining or self._faults.active("unhealthy") else 200)

    async def loads(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/loads`."""
        query = request.query
        return json_reply(
            loads(self._engine, self._settings, include=query.get("include"), dp_rank=query.get("dp_rank"))
        )

    async def model_info(self, _: web.Request) -> web.Response:
        """Answer `GET /model_info`."""
        return json_reply(model_info(self._settings, self._card))

    async def server_info(self, _: web.Request) -> web.Response:
        """Answer `GET /server_info`."""
        return json_reply(server_info(self._engine, self._settings, self._card))

    async def models(self, _: web.Request) -> web.Response:
        """Answer `GET /v1/models`."""
        own = self._model_card()
        loaded = () if self._adapters is None else self._adapters.loaded.values()
        cards = [
            {**own, "id": a.name, "root": a.path, "parent": self._settings.served_model_name, "max_model_len": None}
            for a in loaded
        ]
        return json_reply({"object": "list", "data": [own, *cards]})

    async def model(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/models/NAME`."""
        name = request.match_info["model"]
        if name == self._settings.served_model_name:
            return json_reply(self._model_card())
        problem = f"The model '{name}' does not exist"
        reported = {"message": problem, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
        return json_reply({"error": reported}, 404)

    async def flush_cache(self, request: web.Request) -> web.Response:
        """Answer `/flush_cache`, after a wait of up to `timeout` seconds for requests in flight."""
        try:
            timeout = float(request.query.get("timeout") or 0)
            if timeout < 0:
                raise ValueError("negative")
        except ValueError as e:
            problem = "Input should be greater than or equal to 0"
            raise InvalidBodyError("greater_than_equal", ("query", "timeout"), problem) from e
        try:
            async with asyncio.timeout(timeout):
                await self._engine.wait_idle()
        except TimeoutError:
            pass  # `flush` reports that requests are in flight
        if self._engine.flush():
            return web.Response(text=_FLUSHED)
        return web.Response(status=400, text="Flush cache failed.\n")

    async def tokenize(self, request: web.Request) -> web.Response:
        """Answer `POST /tokenize`."""
        body = parse_object(await request.read())
        prompt, messages = body.get("prompt"), body.get("messages")
        if (prompt is None) == (messages is None):
            problem = "Value error, Exactly one of 'prompt' or 'messages' must be provided."
            raise InvalidBodyError("value_error", ("body",), problem)
        longest = self._parser.context
        if isinstance(prompt, list):
            many = [self._parser.encode(str(p)) for p in prompt]
            return json_reply({"tokens": many, "count": [len(ids) for ids in many], "max_model_len": longest})
        ids = self._encode(body)
        return json_reply({"tokens": ids, "count": len(ids), "max_model_len": longest})

    async def count_tokens(self, request: web.Request) -> web.Response:
        """Answer `POST /sun/tokens`, always with the exact count."""
        ids = self._encode(parse_object(await request.read()))
        return json_reply(TokenCount(len(ids), exact=True)._asdict())

    def _encode(self, body: dict[str, Any]) -> list[int]:
        prompt, messages = body.get("prompt"), body.get("messages")
        return self._parser.encode(str(prompt)) if messages is None else self._parser.encode_chat(messages)

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
