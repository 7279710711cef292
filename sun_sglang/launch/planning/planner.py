"""Make the plan of a launch: which workers run, with which flags and GPUs. Pure: nothing is started or opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sun_sglang.contracts.fleet_file import FLEET_FILE, Fleet, FleetPool, FleetTask
from sun_sglang.launch.planning.decode_cache.choice import cache_notes
from sun_sglang.launch.planning.flags.engine_defaults import worker_flags
from sun_sglang.launch.planning.flags.engine_flags import to_argv
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema
from sun_sglang.launch.planning.gpu_assignment import assign_gpus
from sun_sglang.launch.planning.hardware.gpu_inventory import DEVICE_ORDER, VISIBLE_DEVICES, Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.kv_transfer import KvTransfer, choose_transfer
from sun_sglang.launch.planning.modules.limits import module_environment
from sun_sglang.launch.planning.plan import ADMIN_KEY, LaunchPlan, PoolScaling, RouterPlan, WorkerPlan
from sun_sglang.launch.planning.pools import Pools, ResolvedPool
from sun_sglang.topology import EngineFlags, Topology

# An adapter whose products overflow makes NaN of its prompt's logits, as does a module with such weights. SGLang
# samples all rows of a batch in one call, which refuses the batch for one such row and ends the scheduler
# (`srt/layers/sampler.py`). So the canary of one task would end the requests of all tasks on its worker. With this it
# fails alone.
_SANITIZE = {"SGLANG_SANITIZE_NAN_LOGITS": "true"}


def make_plan(
    topology: Topology,
    machine: Machine,
    pools: Pools,
    *,
    run_dir: Path,
    router_port: int,
    schema: FlagSchema | None = None,
    scaling: tuple[PoolScaling, ...] = (),
) -> LaunchPlan:
    """Return the plan of a launch.

    Args:
        topology: what to run.
        machine: where the workers run.
        pools: the topology's pools, resolved for this machine.
        run_dir: directory for logs and the fleet file.
        router_port: where the router listens: the topology's port, or a free one where the topology has 0.
        schema: SGLang's flags, to write `false` and lists as its parser takes them; also what it combines with a
            decode cache.
        scaling: the pools that size themselves.

    Raises:
        TopologyError: the machine has too few GPUs, or settings contradict each other.
    """
    transfer = choose_transfer(pools, machine)
    workers, notes = plan_workers(pools, machine, transfer, run_dir=run_dir, schema=schema)
    router = _router(topology, run_dir, router_port)
    return LaunchPlan(
        run_dir=run_dir,
        workers=workers,
        router=router,
        transfer=transfer,
        fleet=make_fleet(topology, pools, router_port, run_dir / ADMIN_KEY),
        notes=notes,
        scaling=scaling,
    )


def plan_workers(
    pools: Pools, machine: Machine, transfer: KvTransfer | None, *, run_dir: Path, schema: FlagSchema | None
) -> tuple[tuple[WorkerPlan, ...], tuple[str, ...]]:
    """Return the plans of all workers of some pools, and notes on defaults that were left out.

    The cores of the machine are divided among all ranks of all pools: each has as many threads.

    Args:
        pools: the pools, resolved for the machine.
        machine: where they run.
        transfer: how KV goes from prefill to decode workers; None where no worker transfers any.
        run_dir: directory for logs.
        schema: SGLang's flags.

    Raises:
        TopologyError: the machine has too few GPUs, or settings contradict each other.
    """
    gpus = assign_gpus(pools, machine)
    ranks = sum(pool.replicas * pool.ranks for pool in pools.values())
    threads = max(1, min(machine.cores, machine.cores * machine.machines // ranks))
    beside_cache = schema.speculative_with_cache if schema else ()
    workers: list[WorkerPlan] = []
    notes: list[str] = []
    for pool in pools.values():
        flags = worker_flags(pool, pools, machine, transfer, beside_cache)
        notes += cache_notes(pool, flags, beside_cache)
        argv = _arguments(pool, flags, schema)
        for worker in pool.workers:
            own_gpus = [gpu for index in gpus[worker] for gpu in machine.gpus if gpu.index == index]
            cores = {} if own_gpus else _rank_cores(pool.ranks, machine.cores)
            by_role = _SANITIZE if pool.role == "prefill" and pool.task_weights.any_later(pool) else {}
            by_role = by_role | module_environment(pool, machine)
            workers.append(
                WorkerPlan(
                    name=worker,
                    pool=pool.name,
                    role=pool.role,
                    gpus=gpus[worker],
                    threads=threads,
                    env=_environment(own_gpus, threads) | (transfer.env if transfer else {}) | cores | by_role,
                    argv=argv,
                    needs_nccl_port=pool.model_copies == 1,
                    log=run_dir / "logs" / f"{worker}.log",
                    module=pool.kind.module,
                    forkable=pool.kind.forkable,
                    nodes=pool.nodes,
                    standby=worker in pool.standby,
                )
            )
    return tuple(workers), tuple(notes)


def _arguments(pool: ResolvedPool, flags: EngineFlags, schema: FlagSchema | None) -> tuple[str, ...]:
    identifying: dict[str, Any] = {
        "model_path": pool.model,
        "revision": pool.revision,
        "served_model_name": pool.name,
        "disaggregation_mode": pool.role if pool.role != "unified" else None,
    }
    return (*to_argv(identifying | flags, schema), *to_argv(pool.kind.own_flags(pool)))


def _router(topology: Topology, run_dir: Path, port: int) -> RouterPlan:
    return RouterPlan(
        host=topology.router.host,
        port=port,
        fleet=run_dir / FLEET_FILE,
        log=run_dir / "logs" / "router.log",
        tls=topology.router.tls_cert is not None,
        processes=topology.router.processes,
        drain_timeout=topology.router.drain_timeout,
    )


def _environment(gpus: Sequence[Gpu], threads: int) -> dict[str, str]:
    # SGLang determines a GPU's NUMA node through torch, which supports no MIG device: the scheduler would end
    # (`utils/numa_utils.py`: `_query_numa_node_for_gpu`)
    no_numa = {"SGLANG_AUTO_NUMA_BIND": "false"} if any(gpu.mig for gpu in gpus) else {}
    return no_numa | {
        "OMP_NUM_THREADS": str(threads),
        # empty on the CPU, so that nothing takes a GPU by accident
        VISIBLE_DEVICES: ",".join(gpu.cuda_name for gpu in gpus),
        **DEVICE_ORDER,
    }


def _rank_cores(ranks: int, cores: int) -> dict[str, str]:
    """Return the variable that lets each rank of a worker without a GPU use all cores.

    SGLang requires a NUMA node for each rank otherwise (`utils/numa_utils.py`: `init_threads_binding`).
    """
    return {"SGLANG_CPU_OMP_THREADS_BIND": "|".join([f"0-{cores - 1}"] * ranks)} if ranks > 1 else {}


def make_fleet(topology: Topology, pools: Pools, router_port: int, admin_key: Path) -> Fleet:
    """Return the content of the router's fleet file, without workers.

    Args:
        topology: what to serve.
        pools: the topology's pools, resolved.
        router_port: where the router listens.
        admin_key: path of the file with the admin key of whatever starts the workers.
    """
    tasks = {
        name: FleetTask(
            **task.model_dump(exclude={"adapter", "model"}),
            adapter=pools[task.prefill].adapters.get(name),
            module=pools[task.prefill].task_modules.get(name),
        )
        for name, task in topology.tasks.items()
    }
    return Fleet(
        tasks=tasks,
        pools={name: FleetPool(role=pool.role, model=pool.model) for name, pool in topology.pools.items()},
        workers=(),
        router=topology.router.model_copy(update={"port": router_port}),
        admin_key_file=str(admin_key),
    )
