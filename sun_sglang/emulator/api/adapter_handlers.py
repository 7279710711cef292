"""Handlers of `/load_lora_adapter`, `/unload_lora_adapter` and the page of the adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from sun_sglang.contracts.adapters_report import AdaptersReport, ColdLoads
from sun_sglang.emulator.api.json_reply import json_reply
from sun_sglang.emulator.engine.adapters import AdapterRegistry, UpdateReply
from sun_sglang.emulator.protocol.body import parse_object, require_field

_DISABLED = UpdateReply(False, "LoRA is not enabled. Please set `--enable-lora` to enable LoRA.", None)


class AdapterHandlers:
    """Serves the routes of LoRA adapters.

    Args:
        adapters: the worker's adapters; None on a worker without LoRA.
    """

    def __init__(self, adapters: AdapterRegistry | None) -> None:
        self._adapters = adapters
        self._updates: set[asyncio.Task[UpdateReply]] = set()

    async def load(self, request: web.Request) -> web.Response:
        """Answer `POST /load_lora_adapter`."""
        body = parse_object(await request.read())
        name, path = require_field(body, "lora_name"), require_field(body, "lora_path")
        return _reply(_DISABLED if self._adapters is None else await self._finish(self._adapters.load(name, path)))

    async def unload(self, request: web.Request) -> web.Response:
        """Answer `POST /unload_lora_adapter`."""
        name = require_field(parse_object(await request.read()), "lora_name")
        return _reply(_DISABLED if self._adapters is None else await self._finish(self._adapters.unload(name)))

    async def page(self, _: web.Request) -> web.Response:
        """Answer `GET /sun/adapters`; a worker without LoRA has nothing to report."""
        if self._adapters is None:
            return json_reply(AdaptersReport().model_dump(mode="json"))
        slots = self._adapters.slots
        cold = {name: ColdLoads(loads=c.loads, seconds=c.seconds) for name, c in slots.cold.items()}
        return json_reply(AdaptersReport(resident=tuple(sorted(slots.resident)), cold=cold).model_dump(mode="json"))

    async def _finish(self, update: Coroutine[Any, Any, UpdateReply]) -> UpdateReply:
        """Return the reply of an update, which goes on when its client is gone, as in SGLang."""
        task = asyncio.create_task(update)
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel the updates in progress."""
        for task in self._updates:
            task.cancel()
        await asyncio.gather(*self._updates, return_exceptions=True)


def _reply(reply: UpdateReply) -> web.Response:
    return json_reply(reply.body(), 200 if reply.success else 400)
