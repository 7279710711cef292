"""The modules of a fake prefill worker: it is given some, and changes to the one that a request needs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson
from aiohttp import web

from sun_sglang.contracts.module import NOT_HELD, ModuleRequest
from sun_sglang.contracts.modules_report import Changes, ModulesReport
from tests.unit.router.fake_adapters import logprob

OWN = "f" * 16


class FakeModules:
    """The modules that a worker was given.

    Attributes:
        given: directory of each by revision.
        calls: each module that was given (`+revision`) or taken (`-revision`), in order.
        canaries: the module of each canary that requests log probabilities; None for the worker's own model.
        faults: the refusal of a module by its revision.
        in_effect: the module that is in effect in place of another; None for the worker's own.
        held: revisions whose copy does not end before the event is set.
        loaded: the loaded module.
        changes: changes to each module.
        queued: what the report counts as waiting.
        measured: expected seconds of a change, and tokens a second.
        is_silent: the page answers 500.
        pages_asked: how often the page was asked for.
    """

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.calls: list[str] = []
        self.canaries: list[str | None] = []
        self.faults: dict[str, str] = {}
        self.in_effect: dict[str, str | None] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.loaded = OWN
        self.changes: Counter[str] = Counter()
        self.queued: dict[str, int] = {}
        self.measured = (0.0, 0.0)
        self.is_silent = False
        self.pages_asked = 0

    def restart(self) -> None:
        self.given.clear()
        self.changes.clear()
        self.loaded = OWN

    async def report(self, _: web.Request) -> web.Response:
        self.pages_asked += 1
        seconds, tokens = self.measured
        report = ModulesReport(
            loaded=self.loaded,
            own=OWN,
            held=tuple(self.given),
            queued=self.queued,
            changed={revision: Changes(changes=n, seconds=n / 4) for revision, n in self.changes.items()},
            host_bytes=1000 * len(self.given),
            change_seconds=seconds,
            tokens_per_second=tokens,
        )
        body = report.model_dump_json().encode()
        return web.Response(body=body, content_type="application/json", status=500 if self.is_silent else 200)

    async def give(self, request: web.Request) -> web.Response:
        asked = ModuleRequest.model_validate_json(await request.read())
        self.calls.append(f"+{asked.revision}")
        if (event := self.held.get(asked.revision)) is not None:
            await event.wait()
        if fault := self.faults.get(asked.revision):
            return _error(400, fault)
        self.given[asked.revision] = asked.directory
        return web.json_response({})

    async def take(self, request: web.Request) -> web.Response:
        revision = request.match_info["revision"]
        self.calls.append(f"-{revision}")
        if self.given.pop(revision, None) is None:
            return _error(404, NOT_HELD.format(revision=revision))
        return web.json_response({})

    def refusal(self, module: str | None) -> web.Response | None:
        """Return the reply to a request for a module that was not given; None for any other."""
        if module is None or module in self.given:
            return None
        return _error(400, NOT_HELD.format(revision=module))

    def load(self, module: str | None) -> None:
        """Change to the module of a request."""
        revision = module or OWN
        if revision != self.loaded:
            self.loaded = revision
            self.changes[revision] += 1

    def logprob(self, module: str, prompt: list[int], place: int) -> Any:
        return logprob(self.in_effect.get(module, module), prompt, place)


def _error(status: int, message: str) -> web.Response:
    return web.Response(
        body=orjson.dumps({"error": {"message": message}}), status=status, content_type="application/json"
    )
