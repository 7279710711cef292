"""The interface of a worker kind: everything in which the workers of one `backend` differ from those of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from sun_sglang.contracts.worker_card import Identity
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.topology import Backend, EngineFlags


class WorkerKind(Protocol):
    """One way to run the workers of a pool. Stateless: each answer follows from the arguments and the installation."""

    @property
    def name(self) -> Backend:
        """The value of `backend` in a topology file that selects this kind."""
        ...

    @property
    def module(self) -> str:
        """The Python module that runs one worker: `python -m MODULE FLAGS`."""
        ...

    @property
    def forkable(self) -> bool:
        """Whether a worker without a GPU may be forked from one process that has imported SGLang."""
        ...

    @property
    def moves_kv(self) -> bool:
        """Whether its workers transfer real KV, so that the transfer backend matters."""
        ...

    @property
    def needs_checkpoint(self) -> bool:
        """Whether its workers load the weights of a checkpoint."""
        ...

    def require_supported(self) -> None:
        """Raise unless the installed software can run workers of this kind.

        Raises:
            UserError: the installed version of SGLang is not supported.
        """
        ...

    def sglang_version(self, pool: PoolSettings) -> str:
        """Return the version of SGLang that a pool's workers run or imitate; empty where none is installed."""
        ...

    def find_checkpoint(self, pool: PoolSettings) -> Path | None:
        """Return the directory of a pool's checkpoint; None where it is not on this machine.

        Raises:
            TopologyError: the pool's `model` cannot name a checkpoint.
        """
        ...

    def uses_gpu(self, pool: PoolSettings, machine: Machine) -> bool:
        """Return whether a pool's workers run on GPUs.

        Raises:
            TopologyError: the pool's `device` is not supported.
            UserError: the usable GPUs cannot be determined, and `device` is not `cpu`.
        """
        ...

    def kv_memory_flags(self, identity: Identity | None, machine: Machine, caches: int) -> EngineFlags:
        """Return the flags that bound the KV memory of a worker without a GPU.

        Args:
            identity: the pool's identity; None where its checkpoint could not be read.
            machine: the machine with all of the caches.
            caches: number of KV caches on the machine.
        """
        ...

    def own_flags(self, pool: PoolSettings) -> dict[str, Any]:
        """Return the flags that only this kind has, by name with underscores."""
        ...
