"""The LoRA adapters of an emulated worker: loads, unloads and the requests that use them, with SGLang's messages.

After SGLang's `managers/tokenizer_control_mixin.py`, `lora/lora_registry.py` and `lora/lora_manager.py`. One load or
unload runs at a time. An unload waits for the requests that use the adapter. A request for an adapter that was loaded
and unloaded loads it again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sun_sglang.contracts.adapter import NAME_PREFIX, AdapterLimits, AdapterRef
from sun_sglang.emulator.engine.adapter_files import AdapterFiles, AdapterRefusedError
from sun_sglang.emulator.engine.held_loads import HeldLoads
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.sim.adapter_slots import AdapterSlots


class UpdateReply(NamedTuple):
    """The reply to a load or an unload (`LoRAUpdateOutput` in managers/io_struct.py).

    Attributes:
        success: whether it was done.
        error_message: the reason if not; empty after a success.
        loaded_adapters: the path of each loaded adapter; None where SGLang did not ask its scheduler.
    """

    success: bool
    error_message: str
    loaded_adapters: dict[str, str] | None

    def body(self) -> dict[str, Any]:
        """Return the reply's JSON."""
        return {"rid": None, "http_worker_ipc": None, **self._asdict()}


@dataclass(eq=False, slots=True)
class LoadedAdapter:
    """One load of an adapter.

    Attributes:
        name: its name in requests.
        path: directory that it was read from.
        revision: revision of its content, on which tokens depend; empty if it has no effect (the fault `skip_load`).
        load_id: a new random value for each load, which divides the prefix cache.
        users: requests that use it.
    """

    name: str
    path: str
    revision: str
    load_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    users: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_unused(self) -> None:
        """Wait until no request uses it."""
        while self.users:
            self._unused.clear()
            await self._unused.wait()

    def release(self) -> None:
        """Count one request less."""
        self.users -= 1
        if not self.users:
            self._unused.set()


class AdapterRegistry:
    """The adapters of one worker.

    Args:
        limits: the adapters that it accepts.
        slots: its slots.
        faults: the faults to simulate.
        files: reads the directories of adapters.
        spend: takes the time of one read, during which the engine does nothing else.
    """

    def __init__(
        self,
        limits: AdapterLimits,
        slots: AdapterSlots,
        faults: FaultInjector,
        *,
        files: AdapterFiles,
        spend: Callable[[], Awaitable[None]],
    ) -> None:
        self.limits = limits
        self.slots = slots
        self.loads = HeldLoads(faults)
        self._faults = faults
        self._files = files
        self._spend = spend
        self._lock = asyncio.Lock()
        # the least recently used first, as in SGLang
        self._registered: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self._unloading: dict[str, LoadedAdapter] = {}
        self._known_paths: dict[str, str] = {}

    @property
    def loaded(self) -> Mapping[str, LoadedAdapter]:
        """The adapters that requests can use, by name."""
        return self._registered

    async def load(self, name: str, path: str) -> UpdateReply:
        """Load an adapter, and unload the least recently used ones over `max_loaded`."""
        if name.startswith(NAME_PREFIX):
            try:
                await asyncio.to_thread(self._files.verify, name, Path(path))
            except AdapterRefusedError as e:
                return UpdateReply(False, str(e), None)
        async with self._lock:
            await self.loads.wait()
            try:
                adapter = await self._read_checked(name, path)
            except AdapterRefusedError as e:
                return UpdateReply(False, str(e), self._paths())
            self._registered[name] = adapter
            self._known_paths[name] = path
            reply = UpdateReply(True, "", self._paths())
            while self.limits.max_loaded is not None and len(self._registered) > self.limits.max_loaded:
                await self._unload(next(iter(self._registered)))
                reply = reply._replace(loaded_adapters=self._paths())
            return reply

    async def unload(self, name: str) -> UpdateReply:
        """Unload an adapter once no request uses it."""
        async with self._lock:
            if name not in self._registered:
                message = f"LoRA with name {name} does not exist. Loaded LoRAs: {self._registered.keys()}"
                return UpdateReply(False, message, None)
            await self._unload(name)
            return UpdateReply(True, "", self._paths())

    async def acquire(self, name: str) -> LoadedAdapter:
        """Return the adapter of a request, which counts as its user until `LoadedAdapter.release`.

        Raises:
            AdapterRefusedError: it was never loaded, or cannot be loaded again.
        """
        if name not in self._registered:
            path = self._known_paths.get(name)
            if path is None:
                raise AdapterRefusedError(
                    f"Got LoRA adapter that has never been loaded: {name}\n"
                    f"All loaded adapters: {self._known_paths.keys()}."
                )
            reply = await self.load(name, path)
            if not reply.success and "already loaded" not in reply.error_message:
                raise AdapterRefusedError(f"Failed to implicitly load LoRA adapter {name}: {reply.error_message}")
        adapter = self._registered.get(name)
        if adapter is None:
            raise AdapterRefusedError(
                f"The following requested LoRA adapters are not loaded: {name}\n"
                f"Loaded adapters: {self._registered.keys()}."
            )
        self._registered.move_to_end(name)
        adapter.users += 1
        return adapter

    def lose(self) -> None:
        """Forget every adapter at once, as no SGLang worker should (the fault `lose_adapters`)."""
        self._registered.clear()
        self._known_paths.clear()
        self.slots.clear()

    async def _unload(self, name: str) -> None:
        # new requests do not find it from now on
        adapter = self._unloading[name] = self._registered.pop(name)
        await adapter.wait_unused()
        del self._unloading[name]
        self.slots.remove(name)

    async def _read_checked(self, name: str, path: str) -> LoadedAdapter:
        """Read an adapter and check it against the worker's limits, with SGLang's messages."""
        if self._faults.apply(None, "fail_load"):
            raise AdapterRefusedError("made to fail")
        await self._spend()
        if name in self._registered:
            raise AdapterRefusedError(f"Failed to load LoRA adapter {name} because it is already loaded")
        if self._faults.apply(None, "skip_load"):
            return LoadedAdapter(name, path, "")
        found = await asyncio.to_thread(self._files.read, Path(path))
        self._require_within_limits(name, found)
        if name.startswith(NAME_PREFIX) and name != found.name:
            raise AdapterRefusedError(
                f"{path}: changed while it was loaded as {name}; load it again under the name of its content"
            )
        return LoadedAdapter(name, path, found.revision)

    def _require_within_limits(self, name: str, found: AdapterRef) -> None:
        if found.rank <= self.limits.max_rank and set(found.target_modules) <= set(self.limits.target_modules):
            return
        raise AdapterRefusedError(
            f"LoRA adapter {name} with rank {found.rank} is incompatible with the current LoRA memory pool "
            "configuration. Please ensure that the LoRA adapter's rank is within the configured `--max-lora-rank` and "
            "that the target modules are included in `--lora-target-modules`."
        )

    def _paths(self) -> dict[str, str]:
        return {a.name: a.path for a in (*self._unloading.values(), *self._registered.values())}
