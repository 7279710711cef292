"""The settings of one pool in a topology file, with the file's defaults applied. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sun_sglang.launch.planning.flags.engine_flags import canonical_flags, canonical_name
from sun_sglang.topology import Emulation, EngineFlags, ModuleSettings, Role, Topology

WorkerRole = Role | Literal["unified"]
"""The role of a worker; a `unified` one does prefill and decode itself, and belongs to no topology."""


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """The settings of one pool, before anything is derived from the machine or from its checkpoint.

    Attributes:
        name: the pool's name.
        where: its YAML path.
        role: the role of its workers.
        model: a directory or a Hugging Face id.
        revision: the Hugging Face revision; None for the default one.
        replicas: number of workers; of a pool that sizes itself, the most that it may have.
        flags: the user's SGLang flags by canonical name; the pool's own win over the file's.
        paths: the YAML path of each of these flags.
        gpus: the GPUs that the pool names; None where each worker gets GPUs of its own.
        emulation: what emulated workers emulate.
        modules: how its workers keep the modules of tasks; None where the file does not tell.
        initial: number of workers that are started at first; None for all.
    """

    name: str
    where: str
    role: WorkerRole
    model: str
    revision: str | None
    replicas: int
    flags: EngineFlags
    paths: Mapping[str, str]
    gpus: tuple[int, ...] | None
    emulation: Emulation
    modules: ModuleSettings | None = None
    initial: int | None = None

    def flag_path(self, flag: str) -> str:
        """Return the YAML path of a flag: where the user wrote it, else where the file's `engine` would have it."""
        return self.paths.get(flag, f"engine.{flag}")

    def sets_itself(self, flag: str) -> bool:
        """Return whether the pool's own `engine` has the flag, and not only the file's."""
        return self.flag_path(flag).startswith(f"{self.where}.")


def pool_settings(topology: Topology, name: str) -> PoolSettings:
    """Return the settings of one pool of a topology."""
    pool, scaled = topology.pools[name], topology.autoscale_of(name)
    sources = (("engine", topology.engine), (f"pools.{name}.engine", pool.engine))
    return PoolSettings(
        name=name,
        where=f"pools.{name}",
        role=pool.role,
        model=pool.model,
        revision=pool.revision,
        replicas=pool.replicas if scaled is None else scaled.max,
        flags={key: value for _, flags in sources for key, value in canonical_flags(flags).items()},
        paths={canonical_name(key): f"{where}.{key}" for where, flags in sources for key in flags},
        gpus=pool.gpus,
        emulation=topology.emulation_of(name),
        modules=pool.modules,
        initial=None if scaled is None else max(scaled.min, pool.replicas),
    )
