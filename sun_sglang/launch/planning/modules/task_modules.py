"""Read the modules of a topology's tasks, and compare each with the pools of its task."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.checkpoint.module.fit import require_module_fits
from sun_sglang.checkpoint.module.read import read_module
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.emulator.identity import emulated_revision
from sun_sglang.errors import CheckpointError, TopologyError
from sun_sglang.launch.planning.pools import Pools, ResolvedPool
from sun_sglang.launch.planning.task_decoder import require_decoder
from sun_sglang.launch.planning.worker_kinds.kinds import WORKER_KINDS
from sun_sglang.topology import Topology

# no weights: an emulated worker without a checkpoint takes any name
_NO_SIZE = 0
_OTHER_KV = "prefill; give the task a prefill pool with these weights"


def read_task_modules(topology: Topology) -> dict[str, ModuleRef]:
    """Return the module of each task that has a `model` of its own, by task.

    A task whose `model` is that of its prefill pool has none.

    Raises:
        TopologyError: the model is not on this machine.
        CheckpointError: it cannot be read.
    """
    found: dict[str, ModuleRef] = {}
    for name, task in topology.tasks.items():
        if task.model is not None and task.model != topology.pools[task.prefill].model:
            found[name] = _read(topology, name, task.model)
    return found


def _read(topology: Topology, task: str, model: str) -> ModuleRef:
    where = f"tasks.{task}.model"
    directory = find_checkpoint(model, None)
    if directory is None:
        if not WORKER_KINDS[topology.backend_of(topology.tasks[task].prefill)].needs_checkpoint:
            return ModuleRef(directory=model, revision=emulated_revision(model), size=_NO_SIZE)
        raise TopologyError(where, f"`{model}` is not on this machine", "give the directory of its checkpoint")
    try:
        return read_module(directory)
    except CheckpointError as e:
        raise CheckpointError(f"{where}: {e}") from e


def require_modules_fit(topology: Topology, pools: Pools) -> None:
    """Raise unless each module can take the place of its prefill pool's model, and pair with its decode pool.

    A module that fits makes KV as the pool's model does, which is compared with the decode pool.

    Raises:
        IdentityError: a module was tuned for another decoder.
        CheckpointError: a module has another configuration, other tensors or another tokenizer than its prefill pool's
            model.
    """
    for pool in pools.values():
        # one that has the weights of the pool's model too: it may have another configuration
        for name, module in pool.task_weights.modules.items():
            task = topology.tasks[name]
            _require_layers(name, module, pool)
            if not task.any_decoder:
                require_decoder(f"tasks.{name}.model", module, pools[task.decode], _OTHER_KV)


def _require_layers(task: str, module: ModuleRef, pool: ResolvedPool) -> None:
    directory = Path(module.directory)
    if pool.checkpoint is None or pool.checkpoint.directory is None or not directory.is_dir():
        return
    try:
        require_module_fits(directory, pool.checkpoint.directory, pool.dtype | pool.flags)
    except CheckpointError as e:
        raise CheckpointError(f"tasks.{task}.model: {e}") from e
