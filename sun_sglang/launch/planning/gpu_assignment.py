"""Assign GPUs to workers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice

from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pools import Pools, ResolvedPool


def assign_gpus(pools: Pools, machine: Machine) -> dict[str, tuple[int, ...]]:
    """Return the GPUs of each worker by name: of those that its pool names, else the next ones that no pool names.

    A worker on the CPU has none.

    Raises:
        TopologyError: there are too few GPUs, a named one is not there, or a worker would get several MIG devices.
    """
    named = _named(pools)
    unnamed = iter([g.index for g in machine.gpus if g.index not in named])
    mig = {g.index for g in machine.gpus if g.mig}
    assigned: dict[str, tuple[int, ...]] = {}
    for pool in pools.values():
        size = pool.gpus_per_worker
        source = cycle(_own_gpus(pool, machine)) if pool.gpus else unnamed
        for worker in pool.workers:
            taken = assigned[worker] = tuple(islice(source, size))
            if size > 1 and mig.intersection(taken):
                problem = f"a worker takes {size} GPUs, and a CUDA process can use one MIG device"
                raise TopologyError(pool.where, problem, "set `tp_size`, `pp_size` and `dp_size` to 1")
    _require_gpus(pools, machine, assigned)
    return assigned


def _named(pools: Pools) -> set[int]:
    return {gpu for pool in pools.values() for gpu in pool.gpus or ()}


def _own_gpus(pool: ResolvedPool, machine: Machine) -> tuple[int, ...]:
    gpus = pool.gpus or ()
    present = [g.index for g in machine.gpus]
    where = f"{pool.where}.gpus"
    absent = [g for g in gpus if g not in present]
    if absent:
        raise TopologyError(where, f"this machine has no GPU {absent[0]}", f"GPUs: {present or 'none'}")
    if len(gpus) < pool.gpus_per_worker:
        raise TopologyError(where, f"a worker takes {pool.gpus_per_worker} GPUs and {len(gpus)} are named")
    return gpus


def _require_gpus(pools: Pools, machine: Machine, assigned: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless each worker of a pool that names no GPUs has as many as it needs."""
    waiting = [pool for pool in pools.values() if not pool.gpus]
    if all(len(assigned[worker]) == pool.gpus_per_worker for pool in waiting for worker in pool.workers):
        return
    needed = sum(pool.gpus_per_worker * pool.replicas for pool in waiting)
    free = len([g for g in machine.gpus if g.index not in _named(pools)])
    raise TopologyError(
        "pools",
        f"{needed} GPUs are needed and {free} are free on this machine",
        "lower `replicas` or `tp_size`, or let pools share GPUs with `gpus: [...]`",
    )
