"""SGLang's own workers, with the hooks of `sun_sglang.patches`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import PatchError, TopologyError, UserError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.launch.planning.worker_kinds.cpu_kv_memory import cpu_kv_tokens
from sun_sglang.patches.versions import installed_version, require_supported
from sun_sglang.topology import EngineFlags

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class SglangWorkers:
    """Workers that run SGLang with a model's weights, on GPUs or on the CPU."""

    name: Final = "sglang"
    module: Final = "sun_sglang.worker.server"
    forkable: Final = True
    moves_kv: Final = True
    needs_checkpoint: Final = True

    def require_supported(self) -> None:
        """Raise unless the installed SGLang is supported; a machine without SGLang starts no worker and passes.

        Raises:
            UserError: the installed version of SGLang is not supported.
        """
        version = installed_version()
        if version is None:
            return
        try:
            require_supported(version)
        except PatchError as e:
            raise UserError(str(e)) from e

    def sglang_version(self, pool: PoolSettings) -> str:
        """Return the installed version of SGLang; empty where none is installed."""
        return installed_version() or ""

    def find_checkpoint(self, pool: PoolSettings) -> Path | None:
        """Return the directory of a pool's checkpoint; None for a Hugging Face id that is not in the local cache.

        Raises:
            TopologyError: the model is neither a directory nor shaped like a Hugging Face id.
        """
        path = Path(pool.model)
        if path.is_absolute():
            if not path.is_dir():
                raise TopologyError(f"{pool.where}.model", f"{path} is not a directory", "give a model's directory")
            return path
        if not _HUB_ID.fullmatch(pool.model):
            raise TopologyError(
                f"{pool.where}.model",
                f"`{pool.model}` is neither a directory beside the topology file nor a Hugging Face id",
                "give a directory, or an id such as `meta-llama/Llama-3.1-8B-Instruct`",
            )
        return find_checkpoint(pool.model, pool.revision)

    def uses_gpu(self, pool: PoolSettings, machine: Machine) -> bool:
        """Return whether a pool's workers run on GPUs: as `device` sets it, else if the machine has any.

        Raises:
            TopologyError: `device` is neither `cuda` nor `cpu`.
            UserError: `device` is not `cpu`, and the usable GPUs cannot be determined.
        """
        device = pool.flags.get("device")
        if device not in (None, "cuda", "cpu"):
            raise TopologyError(pool.flag_path("device"), f"`{device}` is not supported", "write `cuda` or `cpu`")
        if device != "cpu" and machine.gpu_problem:
            raise UserError(machine.gpu_problem)
        return device == "cuda" or (device is None and bool(machine.gpus))

    def kv_memory_flags(self, identity: Identity | None, machine: Machine, caches: int) -> EngineFlags:
        """Return `max_total_tokens`: without it SGLang takes most of the memory for each worker.

        Args:
            identity: the pool's identity; None where its checkpoint could not be read.
            machine: the machine with all of the caches.
            caches: number of KV caches on the machine.
        """
        return {"max_total_tokens": cpu_kv_tokens(identity, machine, caches)}

    def own_flags(self, pool: PoolSettings) -> dict[str, Any]:
        """Return no flags: SGLang has them all."""
        return {}
