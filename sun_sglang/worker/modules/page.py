"""`/sun/modules` of an SGLang worker: `GET` reports its modules, `POST` gives it one, `DELETE` takes one away.

The scheduler writes its part of the report (`patches/modules/turns.py`) into a file that both processes share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.checkpoint.module.fit import flag_against_turns, require_module_fits
from sun_sglang.checkpoint.module.host_copies import HostCopies, shared_directory
from sun_sglang.checkpoint.module.read import module_size
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import MODULES_VARIABLE, ModuleLimits, ModuleRequest, read_module_limits
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.errors import SunError, UserError
from sun_sglang.files.shared_snapshot import SharedSnapshot, SnapshotWriter
from sun_sglang.strict import first_invalid
from sun_sglang.worker.modules.keeper import KeptModule, ModuleKeeper

_MOST_BYTES = 1 << 16


class ModulesPage:
    """The modules of one server. Make it before the server starts its schedulers, which find its files by variables.

    Args:
        environ: the environment of this process.

    Attributes:
        limits: how the worker keeps modules; None for a worker that serves its own model alone.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        from sun_sglang.patches.modules.shared_files import HOST_FILE_VARIABLE, SCHEDULED_FILE_VARIABLE

        self.limits: ModuleLimits | None = read_module_limits(environ)
        self._host, self._scheduled = SharedSnapshot("sun-modules"), SharedSnapshot("sun-modules-scheduled")
        environ[HOST_FILE_VARIABLE], environ[SCHEDULED_FILE_VARIABLE] = self._host.path, self._scheduled.path
        self._writer = SnapshotWriter(self._host.path)
        self._own = Path()
        self._flags: Mapping[str, Any] = {}
        self._copies: HostCopies | None = None
        self._keeper: ModuleKeeper | None = None

    def prepare(self, state: Any) -> None:
        """Attach the keeper to the server. Call once its schedulers run, and before anything is served.

        Args:
            state: SGLang's `_GlobalState` (`entrypoints/http_server.py`).

        Raises:
            UserError: the server was started with a flag with which modules cannot take turns.
            CheckpointError: the shared memory cannot hold modules.
        """
        if self.limits is None:
            return
        manager = state.tokenizer_manager
        flags = manager.server_args.resolved_dict()
        require_turns(flags)
        self._flags = flags
        own = find_checkpoint(manager.model_path, flags["revision"])
        assert own is not None, "the server has loaded the model"
        self._own = own
        model = KeptModule(weights_revision(own), own, module_size(own))
        self._copies = HostCopies(shared_directory())
        self._keeper = ModuleKeeper(self._copies, model, self.limits.host_bytes, self._publish)
        manager.sun_modules = self._keeper

    def close(self) -> None:
        """Give the host memory up: the server ends."""
        if self._copies is not None:
            self._copies.close()

    async def handle(self, request: Any) -> Any:
        """Answer `GET` and `POST`; 404 on a worker that serves its own model alone."""
        if self._keeper is None:
            return _error(404, "this worker serves its own model alone; set `modules: {}` on its pool")
        if request.method == "GET":
            return _json(self._report(self._keeper).model_dump_json())
        try:
            wanted = ModuleRequest.model_validate_json(await _body(request))
            await self._add(self._keeper, wanted)
        except ValidationError as e:
            return _error(400, first_invalid(e, ModuleRequest).describe("the body"))
        except SunError as e:
            return _error(400, str(e))
        return _json("{}")

    async def handle_one(self, request: Any) -> Any:
        """Answer `DELETE`; 404 if the worker was not given the module."""
        revision = request.path_params["revision"]
        if self._keeper is None or not await self._keeper.remove(revision):
            return _error(404, f"this worker was not given the module {revision}")
        return _json("{}")

    async def _add(self, keeper: ModuleKeeper, wanted: ModuleRequest) -> None:
        if keeper.has(wanted.revision):
            return
        directory = Path(wanted.directory)
        await asyncio.to_thread(require_module_fits, directory, self._own, self._flags)
        await keeper.add(KeptModule(wanted.revision, directory, module_size(directory)))

    def _report(self, keeper: ModuleKeeper) -> ModulesReport:
        from sun_sglang.patches.modules.shared_files import ScheduledModules

        content = self._scheduled.read()
        scheduled: dict[str, Any] = {"loaded": keeper.own}
        if content:
            scheduled = ScheduledModules.model_validate_json(content).model_dump()
        held = keeper.held
        return ModulesReport(
            own=keeper.own,
            held=tuple(module.revision for module in held),
            host_bytes=sum(module.size for module in held),
            **scheduled,
        )

    def _publish(self, own: str, held: Iterable[str]) -> None:
        from sun_sglang.patches.modules.shared_files import HostModules

        content = HostModules(own=own, root=str(shared_directory()), held=tuple(held))
        self._writer.write(content.model_dump_json().encode())


def require_turns(flags: Mapping[str, Any]) -> None:
    """Raise if a worker with these flags cannot change its weights between batches.

    Raises:
        UserError: names the flag.
    """
    if flags["disaggregation_mode"] != "prefill":
        raise UserError(f"{MODULES_VARIABLE} is set, and only prefill workers keep modules; unset it")
    if (flag := flag_against_turns(flags)) is not None:
        raise UserError(f"{MODULES_VARIABLE} is set, and modules cannot take turns with `{flag}`; remove one of both")
    if flags["device"] == "cpu" and _packs_layers():
        raise UserError(
            f"{MODULES_VARIABLE} is set, and modules cannot take turns on this CPU, for which SGLang packs its layers "
            "for AMX; give each task a prefill pool of its own"
        )


def _packs_layers() -> bool:
    """Return whether SGLang packs the layers of a model on this CPU when it loads them (`layers/amx_utils.py`)."""
    from sglang.srt.utils import cpu_has_amx_support

    return bool(cpu_has_amx_support())


async def _body(request: Any) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise UserError(f"the body is over {_MOST_BYTES} bytes")
    return body


def _json(content: str, status: int = 200) -> Any:
    from fastapi import Response

    return Response(content, status_code=status, media_type="application/json")


def _error(status: int, message: str) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": message, "code": status}}, status_code=status)
