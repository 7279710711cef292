"""Handlers of `/sun/modules`, with the replies of an SGLang worker (`worker/modules/page.py`)."""

from __future__ import annotations

from aiohttp import web
from pydantic import ValidationError

from sun_sglang.contracts.module import ModuleRequest
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.emulator.api.json_reply import json_reply
from sun_sglang.emulator.engine.engine import Engine
from sun_sglang.emulator.engine.modules import ModuleRegistry
from sun_sglang.errors import SunError
from sun_sglang.strict import first_invalid


class ModuleHandlers:
    """Serves the routes of modules.

    Args:
        modules: the worker's modules; None on a worker that serves its own model alone.
        engine: the worker's engine.
    """

    def __init__(self, modules: ModuleRegistry | None, engine: Engine) -> None:
        self._modules = modules
        self._engine = engine

    async def report(self, _: web.Request) -> web.Response:
        """Answer `GET /sun/modules`."""
        turns = self._engine.turns
        if self._modules is None or turns is None:
            return _own_model_alone()
        held = self._modules.held
        content = ModulesReport(
            loaded=turns.loaded,
            own=turns.own,
            held=tuple(module.revision for module in held),
            queued=self._engine.queued_modules(),
            changed=turns.changed,
            host_bytes=sum(module.size for module in held),
            change_seconds=turns.pace.change,
            tokens_per_second=turns.pace.tokens,
        )
        return json_reply(content.model_dump(mode="json"))

    async def add(self, request: web.Request) -> web.Response:
        """Answer `POST /sun/modules`."""
        if self._modules is None:
            return _own_model_alone()
        try:
            await self._modules.add(ModuleRequest.model_validate_json(await request.read()))
        except ValidationError as e:
            return _error(400, first_invalid(e, ModuleRequest).describe("the body"))
        except SunError as e:
            return _error(400, str(e))
        return json_reply({})

    async def remove(self, request: web.Request) -> web.Response:
        """Answer `DELETE /sun/modules/REVISION`."""
        revision = request.match_info["revision"]
        if self._modules is None or not await self._modules.remove(revision):
            return _error(404, f"this worker was not given the module {revision}")
        return json_reply({})


def _own_model_alone() -> web.Response:
    return _error(404, "this worker serves its own model alone; set `modules: {}` on its pool")


def _error(status: int, message: str) -> web.Response:
    return json_reply({"error": {"message": message, "code": status}}, status)
