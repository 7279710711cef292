"""A pool of a topology, resolved once: every part of the planner reads this object and derives nothing again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.identity import MODULE_FLAGS
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.contracts.module_file import ServedModule
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.adapters.lora_flags import accepts_adapters
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pool_settings import PoolSettings, pool_settings
from sun_sglang.launch.planning.worker_kinds.kinds import WORKER_KINDS
from sun_sglang.launch.planning.worker_kinds.worker_kind import WorkerKind
from sun_sglang.topology import EngineFlags, Topology

# more than one machine has; a plan has an entry for each
_MOST_RANKS = 1024


@dataclass(frozen=True)
class PoolTasks:
    """The tasks that have weights of their own on a prefill pool.

    Attributes:
        adapters: LoRA adapters, by task.
        modules: modules that take the place of the pool's model, by task.
    """

    adapters: Mapping[str, AdapterRef] = field(default_factory=dict)
    modules: Mapping[str, ModuleRef] = field(default_factory=dict)

    def any_later(self, pool: PoolSettings) -> bool:
        """Return whether prompts on a pool are computed with other weights than its model's, now or later."""
        return accepts_adapters(pool, self.adapters) or pool.modules is not None or bool(self.modules)


_NONE = PoolTasks()


@dataclass(frozen=True)
class Checkpoint:
    """The facts of a pool's checkpoint that the planner uses.

    Attributes:
        identity: the identity of the pool's workers.
        served_module: the fields of its `sun.json` that serving needs; None where it was not tuned.
        directory: the directory that was read.
    """

    identity: Identity
    served_module: ServedModule | None = None
    directory: Path | None = None


CheckpointReader = Callable[[WorkerKind, PoolSettings, EngineFlags], Checkpoint | None]
"""Reads the checkpoint of a pool whose workers have these flags; returns None where it is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class ResolvedPool(PoolSettings):
    """A pool with everything that follows from the topology, the machine and its checkpoint.

    Attributes:
        kind: how its workers are run.
        uses_gpu: whether its workers run on GPUs.
        ranks: scheduler processes of each worker; each has a GPU of its own.
        model_copies: copies of the model in each worker: its data-parallel replicas. With DP attention the
            data-parallel ranks are the tensor-parallel ones, and there is one copy.
        nodes: machines that each worker spans.
        kv_caches: KV caches of each worker: one for each data-parallel rank, with DP attention or not.
        dtype: the default of the flag `dtype` for its workers; empty where SGLang chooses.
        checkpoint: its checkpoint; None where it is not on this machine.
        same_module: for a decode pool, whether every task is prefilled by the very module that decodes it, without
            weights of its own, and stays so.
        task_weights: for a prefill pool, the tasks that have weights of their own on it.
    """

    kind: WorkerKind
    uses_gpu: bool
    ranks: int
    model_copies: int
    kv_caches: int
    nodes: int
    dtype: EngineFlags
    checkpoint: Checkpoint | None
    same_module: bool
    task_weights: PoolTasks

    @property
    def adapters(self) -> Mapping[str, AdapterRef]:
        """For a prefill pool, the adapters of its tasks, by task."""
        return self.task_weights.adapters

    @property
    def task_modules(self) -> Mapping[str, ModuleRef]:
        """For a prefill pool, the modules of its tasks that are not the pool's model, by task.

        A task whose module has the weights of the pool's model has no module, wherever it lies.
        """
        own = self.identity.weights if self.identity else None
        return {task: module for task, module in self.task_weights.modules.items() if module.revision != own}

    @property
    def accepts_modules(self) -> bool:
        """Whether its workers change between modules, now or later."""
        return self.modules is not None or bool(self.task_modules)

    @property
    def identity(self) -> Identity | None:
        """The identity of its workers; None where its checkpoint is not on this machine."""
        return self.checkpoint.identity if self.checkpoint else None

    @property
    def served_module(self) -> ServedModule | None:
        """For which decoder its checkpoint was tuned; None where it was not, or where it could not be read."""
        return self.checkpoint.served_module if self.checkpoint else None

    @property
    def gpus_per_worker(self) -> int:
        """GPUs that each worker needs."""
        return self.ranks if self.uses_gpu else 0

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of its workers."""
        return tuple(f"{self.name}-{replica}" for replica in range(self.replicas))

    @property
    def standby(self) -> frozenset[str]:
        """Names of the workers that are not started at first."""
        return frozenset(() if self.initial is None else self.workers[self.initial :])


Pools = Mapping[str, ResolvedPool]
"""The pools of a topology by name, in file order."""


def resolve_pools(
    topology: Topology,
    machine: Machine,
    read_checkpoint: CheckpointReader,
    weights: PoolTasks = _NONE,
) -> Pools:
    """Resolve every pool of a topology for a machine.

    Args:
        topology: as loaded.
        machine: where the workers run.
        read_checkpoint: called once for each pool.
        weights: the adapters and the modules of all tasks.

    Raises:
        TopologyError: a number of ranks or a `device` is wrong, or what `read_checkpoint` raises.
        UserError: the usable GPUs cannot be determined.
    """
    kinds = {name: WORKER_KINDS[topology.backend_of(name)] for name in topology.pools}
    settings = {name: pool_settings(topology, name) for name in topology.pools}
    partners = {name: _prefill_pools(topology, name) for name in topology.pools}
    return _resolve(settings, kinds, partners, machine, read_checkpoint, _by_prefill_pool(topology, weights))


def resolve_servers(servers: Mapping[str, PoolSettings], machine: Machine, read_checkpoint: CheckpointReader) -> Pools:
    """Resolve SGLang servers that belong to no topology, each of which does prefill and decode itself.

    Args:
        servers: their settings by name.
        machine: where they run.
        read_checkpoint: called once for each server.

    Raises:
        TopologyError: a number of ranks or a `device` is wrong, or what `read_checkpoint` raises.
        UserError: the usable GPUs cannot be determined.
    """
    kinds = dict.fromkeys(servers, WORKER_KINDS["sglang"])
    return _resolve(servers, kinds, dict.fromkeys(servers, ()), machine, read_checkpoint, {})


def _resolve(
    settings: Mapping[str, PoolSettings],
    kinds: Mapping[str, WorkerKind],
    partners: Mapping[str, Sequence[str]],
    machine: Machine,
    read_checkpoint: CheckpointReader,
    weights: Mapping[str, PoolTasks],
) -> Pools:
    on_gpu = {name: kinds[name].uses_gpu(pool, machine) for name, pool in settings.items()}
    dtypes = {name: {} if on_gpu[name] else _cpu_dtype(machine) for name in settings}
    checkpoints = {n: read_checkpoint(kinds[n], pool, dtypes[n] | pool.flags) for n, pool in settings.items()}
    return {
        name: ResolvedPool(
            **vars(pool),
            kind=kinds[name],
            uses_gpu=on_gpu[name],
            ranks=_size(pool, "tp_size") * _size(pool, "pp_size") * _model_copies(pool),
            model_copies=_model_copies(pool),
            kv_caches=_size(pool, "dp_size") * _size(pool, "attn_dp_size"),
            nodes=_size(pool, "nnodes"),
            dtype=dtypes[name],
            checkpoint=checkpoints[name],
            same_module=all(
                _is_one_module(settings[prefill], checkpoints[prefill], pool, checkpoints[name])
                and not weights.get(prefill, _NONE).any_later(settings[prefill])
                for prefill in partners[name]
            ),
            task_weights=weights.get(name, _NONE),
        )
        for name, pool in settings.items()
    }


def _cpu_dtype(machine: Machine) -> EngineFlags:
    """Return the dtype that the processor can multiply; on a GPU SGLang's own default is right."""
    return {"dtype": "bfloat16" if machine.cpu_bf16 else "float32"}


def _model_copies(pool: PoolSettings) -> int:
    return 1 if pool.flags.get("enable_dp_attention") else _size(pool, "dp_size")


def _size(pool: PoolSettings, flag: str) -> int:
    """Return a number of ranks that the user set, 1 where none is set.

    Raises:
        TopologyError: it is no number of ranks. SGLang's parser, which may not be installed, takes any whole number.
    """
    size: Any = pool.flags.get(flag) or 1
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST_RANKS:
        problem = f"must be a whole number from 1 to {_MOST_RANKS} (got {size!r})"
        raise TopologyError(pool.flag_path(flag), problem)
    return size


def _prefill_pools(topology: Topology, decode: str) -> list[str]:
    return [task.prefill for task in topology.tasks.values() if task.decode == decode]


def _by_prefill_pool(topology: Topology, weights: PoolTasks) -> Mapping[str, PoolTasks]:
    of = {name: topology.tasks[name].prefill for name in (*weights.adapters, *weights.modules)}
    return {
        pool: PoolTasks(
            {task: ref for task, ref in weights.adapters.items() if of[task] == pool},
            {task: ref for task, ref in weights.modules.items() if of[task] == pool},
        )
        for pool in dict.fromkeys(of.values())
    }


def _is_one_module(
    prefill: PoolSettings, prefill_checkpoint: Checkpoint | None, decode: PoolSettings, checkpoint: Checkpoint | None
) -> bool:
    """Return whether two pools make the same KV for the same tokens: equal weights and equal flags that change KV."""
    if any(prefill.flags.get(flag) != decode.flags.get(flag) for flag in MODULE_FLAGS):
        return False
    if prefill_checkpoint is not None and checkpoint is not None:
        return prefill_checkpoint.identity.weights == checkpoint.identity.weights
    return (prefill.model, prefill.revision) == (decode.model, decode.revision)
