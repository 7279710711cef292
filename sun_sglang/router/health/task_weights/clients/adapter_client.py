"""Load a LoRA adapter into a worker, and unload it. I/O: `POST /load_lora_adapter`, `POST /unload_lora_adapter`.

SGLang (managers/tokenizer_control_mixin.py) changes one adapter of a worker after the other. An unload waits for the
requests that use the adapter.
"""

from __future__ import annotations

from http import HTTPStatus

import aiohttp

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.health.task_weights.clients.change import Change, ask_for_change
from sun_sglang.router.protocol.worker_replies import error_message, parse_json

_LOADED = "already loaded"
_NOT_LOADED = "does not exist"
# an earlier unload was interrupted; SGLang requires its repetition
_HALF_UNLOADED = "incomplete unload"


class AdapterClient:
    """An HTTP client for the adapters of workers.

    Args:
        session: sends the requests.
        clock: measures the deadline.
        deadlines: the limit for one change.
    """

    def __init__(self, session: aiohttp.ClientSession, clock: Clock, deadlines: Deadlines) -> None:
        self._session = session
        self._clock = clock
        self._deadlines = deadlines

    async def load(self, worker: FleetWorker, adapter: AdapterRef) -> Change:
        """Load an adapter under its name. There is no fault if the worker has it, loaded now or before."""
        body = {"lora_name": adapter.name, "lora_path": adapter.directory}
        change = await self._post(worker, "/load_lora_adapter", body)
        if _HALF_UNLOADED in change.fault:
            await self.unload(worker, adapter.name)
            change = await self._post(worker, "/load_lora_adapter", body)
        return Change("") if _LOADED in change.fault else change

    async def unload(self, worker: FleetWorker, name: str) -> str:
        """Unload an adapter, and return the fault; empty if the worker does not have it any more, or never had."""
        fault = (await self._post(worker, "/unload_lora_adapter", {"lora_name": name})).fault
        return "" if _NOT_LOADED in fault else fault

    async def _post(self, worker: FleetWorker, path: str, body: dict[str, str]) -> Change:
        limit = self._deadlines.adapter_change
        return await ask_for_change(self._session, self._clock, worker, "POST", path, body, limit, change_fault)


def change_fault(status: int, reply: bytes) -> str:
    """Return why a worker did not load or unload an adapter; empty if it did.

    Args:
        status: HTTP status of the reply.
        reply: its body: SGLang's `LoRAUpdateOutput` (managers/io_struct.py), or an error in another format.
    """
    parsed = parse_json(reply)
    fields = parsed if isinstance(parsed, dict) else {}
    if status == HTTPStatus.OK and fields.get("success") is True:
        return ""
    message = fields.get("error_message")
    text = message if isinstance(message, str) and message else error_message(reply)
    return text.strip() or f"it answered {status}"
