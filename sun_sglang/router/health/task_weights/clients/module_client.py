"""Give a module to a worker, and take it away. I/O: `POST /sun/modules`, `DELETE /sun/modules/REVISION`.

The worker answers once it has verified the module and copied it to host memory. It takes a module away once the
requests for it have ended.
"""

from __future__ import annotations

from http import HTTPStatus

import aiohttp

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.module import MODULES_PATH, ModuleRef, ModuleRequest
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.health.task_weights.clients.change import Change, ask_for_change
from sun_sglang.router.protocol.worker_replies import error_message


class ModuleClient:
    """An HTTP client for the modules of workers.

    Args:
        session: sends the requests.
        clock: measures the deadline.
        deadlines: the limit for one change.
    """

    def __init__(self, session: aiohttp.ClientSession, clock: Clock, deadlines: Deadlines) -> None:
        self._session = session
        self._clock = clock
        self._deadlines = deadlines

    async def give(self, worker: FleetWorker, module: ModuleRef) -> Change:
        """Give a module to a worker. There is no fault if the worker has it already."""
        body = ModuleRequest(revision=module.revision, directory=module.directory).model_dump()
        return await self._ask(worker, "POST", MODULES_PATH, body)

    async def take(self, worker: FleetWorker, revision: str) -> str:
        """Take a module from a worker, and return the fault; empty if the worker does not have it any more."""
        return (await self._ask(worker, "DELETE", f"{MODULES_PATH}/{revision}", None)).fault

    async def _ask(self, worker: FleetWorker, method: str, path: str, body: dict[str, str] | None) -> Change:
        limit, read_fault = self._deadlines.module_change, given_fault if method == "POST" else taken_fault
        return await ask_for_change(self._session, self._clock, worker, method, path, body, limit, read_fault)


def given_fault(status: int, reply: bytes) -> str:
    """Return why a worker does not have a module that it was given; empty if it has.

    Args:
        status: HTTP status of the reply.
        reply: its body.
    """
    return "" if status == HTTPStatus.OK else error_message(reply).strip() or f"it answered {status}"


def taken_fault(status: int, reply: bytes) -> str:
    """Return why a worker may still have a module that was taken from it; empty if it does not. 404: it has none."""
    return "" if status == HTTPStatus.NOT_FOUND else given_fault(status, reply)
