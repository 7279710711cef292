"""The modules of an emulated prefill worker: additions, removals and the requests that use them.

The keeper of SGLang workers decides which modules are in host memory. Copies take the time of the cost model.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from sun_sglang.contracts.module import NOT_HELD, ModuleLimits, ModuleRequest
from sun_sglang.emulator.engine.held_loads import HeldLoads
from sun_sglang.emulator.engine.module_files import ModuleFiles
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.errors import CheckpointError, RequestError
from sun_sglang.worker.modules.keeper import KeptModule, ModuleKeeper


class ModuleRegistry:
    """The modules of one worker.

    Args:
        limits: how it keeps them.
        own: revision of the model with which it started.
        faults: the faults to simulate.
        files: checks the directories of modules.
        copy_seconds: returns the time of one copy into host memory.
    """

    def __init__(
        self,
        limits: ModuleLimits,
        own: str,
        faults: FaultInjector,
        *,
        files: ModuleFiles,
        copy_seconds: Callable[[], float],
    ) -> None:
        self.loads = HeldLoads(faults)
        self._limits = limits
        self._own = own
        self._faults = faults
        self._files = files
        self._copies = _Copies(copy_seconds)
        self._without_effect: set[str] = set()
        self._keeper = self._new_keeper()

    @property
    def held(self) -> list[KeptModule]:
        """The modules in host memory."""
        return self._keeper.held

    def has(self, revision: str) -> bool:
        """Return whether the worker was given a module, or started with it."""
        return self._keeper.has(revision)

    def weights_of(self, revision: str | None) -> str:
        """Return the revision of the weights that compute a request's prompt.

        They are those of its module, and the worker's own after the fault `skip_load`.
        """
        return self._own if revision is None or revision in self._without_effect else revision

    async def add(self, wanted: ModuleRequest) -> None:
        """Verify a module and copy it into host memory. A module that the worker has stays as it is.

        Raises:
            CheckpointError: it cannot be served, or a fault is active.
        """
        if self.has(wanted.revision):
            return
        await self.loads.wait()
        if self._faults.apply(None, "fail_load"):
            raise CheckpointError("made to fail")
        if self._faults.apply(None, "skip_load"):
            self._without_effect.add(wanted.revision)
        else:
            self._without_effect.discard(wanted.revision)
        size = await asyncio.to_thread(self._files.verify, wanted)
        await self._keeper.add(KeptModule(wanted.revision, Path(wanted.directory), size))

    async def remove(self, revision: str) -> bool:
        """Forget a module once its requests have ended. Return False if the worker was not given it."""
        return await self._keeper.remove(revision)

    def use(self, revision: str | None) -> AbstractAsyncContextManager[None]:
        """Keep a module in host memory for a request, while the block runs; None for the worker's own model.

        Raises:
            RequestError: the worker does not have it.
        """
        return self._keeper.use(revision)

    def lose(self) -> None:
        """Forget every module at once, as no SGLang worker should (the fault `lose_modules`)."""
        self._keeper = self._new_keeper()

    def close(self) -> None:
        """End the copies in progress."""
        self._copies.close()

    def _new_keeper(self) -> ModuleKeeper:
        own = KeptModule(self._own, Path(), self._files.own_size())
        return ModuleKeeper(self._copies, own, self._limits.host_bytes, lambda _own, _held: None)


def refuse_modules(revision: str | None) -> None:
    """Raise if a request to a worker that serves its own model alone needs a module.

    Raises:
        RequestError: it does.
    """
    if revision is not None:
        raise RequestError(400, NOT_HELD.format(revision=revision), code="module_not_held")


class _Copies:
    """Copies into host memory that take time and no memory."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._closed = threading.Event()

    def hold(self, _revision: str, _source: Path) -> None:
        """Take the time of a copy."""
        self._closed.wait(self._seconds())

    def release(self, _revision: str) -> None:
        """Take no time."""

    def close(self) -> None:
        """End the copies in progress."""
        self._closed.set()
