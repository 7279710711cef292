"""The adapters of a fake prefill worker: SGLang's replies, and log probabilities that depend on the adapter's name."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from aiohttp import web

from sun_sglang.contracts.adapter import Fingerprint

TOKENS = tuple(range(1, 17))


def logprob(name: str | None, prompt: list[int], place: int) -> float:
    """Return the log probability of a prompt token; an adapter moves it by up to one."""
    base = -2.0 - place / 100
    return base if name is None else base + _part(name, prompt, place)


def fingerprint(name: str) -> Fingerprint:
    """Return the fingerprint that belongs to an adapter's name."""
    adapter, base = ([logprob(n, list(TOKENS), i) for i in range(1, len(TOKENS))] for n in (name, None))
    return Fingerprint(tokens=TOKENS, adapter=tuple(adapter), base=tuple(base))


def _part(name: str, prompt: list[int], place: int) -> float:
    digest = hashlib.sha256(repr((name, prompt, place)).encode()).digest()
    return (digest[0] - 128) / 128


class FakeAdapters:
    """The adapters that a worker has loaded.

    Attributes:
        loaded: path of each by name.
        calls: every load (`+name`) and unload (`-name`), in order.
        canaries: the adapter of each canary that requests log probabilities; None for the base.
        faults: the refusal of an adapter by its name.
        in_effect: the adapter that is in effect under another's name; None for the base.
        held: names whose load does not end before the event is set.
        running: loads and unloads under way.
        most: the most that were under way at once.
        page: what `GET /sun/adapters` answers; None for 404.
        pages_asked: how often it was asked for.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.calls: list[str] = []
        self.canaries: list[str | None] = []
        self.faults: dict[str, str] = {}
        self.in_effect: dict[str, str | None] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.running = 0
        self.most = 0
        self.page: dict[str, Any] | None = None
        self.pages_asked = 0

    async def report(self, _: web.Request) -> web.Response:
        self.pages_asked += 1
        return web.json_response(self.page, status=200 if self.page is not None else 404)

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        return await self._change("+", body["lora_name"], body["lora_path"])

    async def unload(self, request: web.Request) -> web.Response:
        return await self._change("-", (await request.json())["lora_name"], "")

    async def _change(self, sign: str, name: str, path: str) -> web.Response:
        self.calls.append(sign + name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if (event := self.held.get(name)) is not None:
                await event.wait()
            return self._result(self._apply(sign, name, path))
        finally:
            self.running -= 1

    def _apply(self, sign: str, name: str, path: str) -> str:
        if sign == "-":
            return "" if self.loaded.pop(name, None) else f"LoRA with name {name} does not exist. Loaded LoRAs: []"
        if fault := self.faults.get(name):
            return fault
        if name in self.loaded:
            return f"Failed to load LoRA adapter {name} because it is already loaded"
        self.loaded[name] = path
        return ""

    def _result(self, fault: str) -> web.Response:
        reply = {"success": not fault, "error_message": fault or None, "loaded_adapters": self.loaded}
        return web.json_response(reply, status=400 if fault else 200)

    def refusal(self, name: str | None) -> web.Response | None:
        """Return the reply to a request that names an adapter which is not loaded; None for any other."""
        if name is None or name in self.loaded:
            return None
        message = f"The following requested LoRA adapters are not loaded: {name}\nLoaded adapters: {[*self.loaded]}."
        return web.json_response({"error": {"message": message}}, status=400)

    def logprob(self, name: str | None, prompt: list[int], place: int) -> Any:
        return logprob(name if name is None else self.in_effect.get(name, name), prompt, place)
