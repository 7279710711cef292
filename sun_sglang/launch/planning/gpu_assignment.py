"""Which GPUs a worker gets, if any. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice

from sun_sglang.errors import TopologyError, UserError
from sun_sglang.launch.planning.engine_flags import canonical_flags
from sun_sglang.launch.planning.machine import Machine
from sun_sglang.topology import Topology

# more than one machine has; a plan has an entry for each
_MOST_RANKS = 1024


def uses_gpu(topology: Topology, machine: Machine, pool: str) -> bool:
    """Whether a pool's workers run on GPUs: as `device` says, else if the machine has any. Emulated ones do not.

    Raises:
        TopologyError: `device` is neither `cuda` nor `cpu`.
        UserError: `device` does not say `cpu`, and it is not known which GPUs may be used.
    """
    if topology.backend_of(pool) == "emulated":
        return False
    device = topology.engine_of(pool).get("device")
    if device not in (None, "cuda", "cpu"):
        raise TopologyError(
            flag_path(topology, pool, "device"), f"`{device}` is not supported", "write `cuda` or `cpu`"
        )
    if device != "cpu" and machine.gpu_problem:
        raise UserError(machine.gpu_problem)
    return device == "cuda" or (device is None and bool(machine.gpus))


def assign_gpus(topology: Topology, machine: Machine) -> dict[str, tuple[int, ...]]:
    """GPUs by worker name: a pool's own `gpus`, else the next ones that no pool named; none on the CPU.

    Raises:
        TopologyError: there are too few GPUs, a named one is not there, or a worker would get several MIG devices.
    """
    named = {g for pool in topology.pools.values() for g in pool.gpus or ()}
    unnamed = iter([g.index for g in machine.gpus if g.index not in named])
    split = {g.index for g in machine.gpus if g.mig}
    assigned: dict[str, tuple[int, ...]] = {}
    for name, pool in topology.pools.items():
        size = ranks_per_worker(topology, name) if uses_gpu(topology, machine, name) else 0
        source = cycle(_own_gpus(name, pool.gpus, size, machine)) if pool.gpus else unnamed
        for replica in range(pool.replicas):
            taken = assigned[f"{name}-{replica}"] = tuple(islice(source, size))
            if size > 1 and split.intersection(taken):
                problem = f"a worker takes {size} GPUs, and a CUDA process can use one MIG device"
                raise TopologyError(f"pools.{name}", problem, "set `tp_size`, `pp_size` and `dp_size` to 1")
    _require_gpus(topology, machine, assigned)
    return assigned


def _own_gpus(name: str, gpus: tuple[int, ...], size: int, machine: Machine) -> tuple[int, ...]:
    present = [g.index for g in machine.gpus]
    where = f"pools.{name}.gpus"
    absent = [g for g in gpus if g not in present]
    if absent:
        raise TopologyError(where, f"this machine has no GPU {absent[0]}", f"GPUs: {present or 'none'}")
    if len(gpus) < size:
        raise TopologyError(where, f"a worker takes {size} GPUs and {len(gpus)} are named")
    return gpus


def _require_gpus(topology: Topology, machine: Machine, assigned: Mapping[str, tuple[int, ...]]) -> None:
    needed = 0
    short = False
    for name, pool in topology.pools.items():
        if pool.gpus or not uses_gpu(topology, machine, name):
            continue
        size = ranks_per_worker(topology, name)
        needed += size * pool.replicas
        short |= any(len(assigned[f"{name}-{i}"]) < size for i in range(pool.replicas))
    if short:
        named = {g for pool in topology.pools.values() for g in pool.gpus or ()}
        present = len([g for g in machine.gpus if g.index not in named])
        raise TopologyError(
            "pools",
            f"{needed} GPUs are needed and {present} are free on this machine",
            "lower `replicas` or `tp_size`, or let pools share GPUs with `gpus: [...]`",
        )


def ranks_per_worker(topology: Topology, pool: str) -> int:
    """Return the number of scheduler processes of each of a pool's workers; each has a GPU of its own."""
    return _size(topology, pool, "tp_size") * _size(topology, pool, "pp_size") * model_copies(topology, pool)


def model_copies(topology: Topology, pool: str) -> int:
    """Return how many copies of the model each of a pool's workers has: its data-parallel replicas.

    With DP attention the data-parallel ranks are the tensor-parallel ones, and there is one copy.
    """
    flags = canonical_flags(topology.engine_of(pool))
    return 1 if flags.get("enable_dp_attention") else _size(topology, pool, "dp_size")


def data_parallel_ranks(topology: Topology, pool: str) -> int:
    """Return the KV caches of each of a pool's workers: one for each data-parallel rank, with DP attention or not."""
    return _size(topology, pool, "dp_size") * _size(topology, pool, "attn_dp_size")


def _size(topology: Topology, pool: str, key: str) -> int:
    """Return a number of ranks that a pool's user set, 1 where none is set.

    Raises:
        TopologyError: it is no number of ranks. SGLang's parser, which may not be installed, takes any whole number.
    """
    size = canonical_flags(topology.engine_of(pool)).get(key) or 1
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST_RANKS:
        problem = f"must be a whole number from 1 to {_MOST_RANKS} (got {size!r})"
        raise TopologyError(flag_path(topology, pool, key), problem)
    return size


def flag_path(topology: Topology, pool: str, key: str) -> str:
    """Return the YAML path of a flag that a pool's workers get: the pool's own, or else the file's."""
    return f"pools.{pool}.engine.{key}" if key in topology.pools[pool].engine else f"engine.{key}"
