"""Workers that implement SGLang's protocol without a model: `sun_sglang.emulator`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.emulator.settings import emulation_flags
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.topology import EngineFlags


class EmulatedWorkers:
    """Workers that take the time of a cost file and run anywhere. They load no weights and use no GPU."""

    name: Final = "emulated"
    module: Final = "sun_sglang.emulator.worker"
    forkable: Final = False
    moves_kv: Final = False
    needs_checkpoint: Final = False

    def require_supported(self) -> None:
        """Return at once: the emulator is part of this package."""

    def sglang_version(self, pool: PoolSettings) -> str:
        """Return the version of SGLang whose replies a pool's workers give."""
        return pool.emulation.sglang

    def find_checkpoint(self, pool: PoolSettings) -> Path | None:
        """Return the directory of a checkpoint whose identity the workers report; None for any other name."""
        return find_checkpoint(pool.model, pool.revision)

    def uses_gpu(self, pool: PoolSettings, machine: Machine) -> bool:
        """Return False: the emulator runs on the CPU of any machine."""
        return False

    def kv_memory_flags(self, identity: Identity | None, machine: Machine, caches: int) -> EngineFlags:
        """Return no flags: the cost file sets the size of the emulated cache, which takes no memory.

        Args:
            identity: the pool's identity; None where it has no checkpoint.
            machine: the machine with all of the caches.
            caches: number of KV caches on the machine.
        """
        return {}

    def own_flags(self, pool: PoolSettings) -> dict[str, Any]:
        """Return the `--sim-*` flags of the pool's emulation, where it differs from the defaults."""
        return dict(emulation_flags(pool.emulation))
