"""Topology -> processes: which worker runs where, with which flags. Pure: nothing is started, opened or imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sun_sglang.contracts.fleet_file import FLEET_FILE, Fleet, FleetPool
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.contracts.worker_key import WORKER_KEY_VARIABLE
from sun_sglang.emulator.settings import emulation_flags
from sun_sglang.launch.planning.decode_cache.choice import cache_notes
from sun_sglang.launch.planning.engine_defaults import worker_flags
from sun_sglang.launch.planning.engine_flags import FlagSchema, to_argv
from sun_sglang.launch.planning.gpu_assignment import assign_gpus, model_copies, ranks_per_worker
from sun_sglang.launch.planning.gpu_inventory import DEVICE_ORDER, VISIBLE_DEVICES, Gpu
from sun_sglang.launch.planning.kv_transfer import KvTransfer, choose_transfer
from sun_sglang.launch.planning.machine import Machine
from sun_sglang.strict import Strict
from sun_sglang.topology import Backend, Role, Topology

ADMIN_KEY = "admin.key"
WORKER_KEY = "worker.key"


class WorkerPlan(Strict):
    """One SGLang server.

    Attributes:
        name: `<pool>-<replica>`.
        pool: the pool it belongs to.
        role: its pool's role.
        gpus: the numbers of its GPUs (`Gpu.index`); empty on the CPU.
        threads: what `OMP_NUM_THREADS` is set to.
        env: variables added to the environment of its processes.
        argv: SGLang's own flags, without the address, which the place completes at each start.
        needs_nccl_port: whether the place chooses the port where its ranks meet. SGLang chooses one for each copy of
            the model where a worker has several.
        log: file for its output.
        backend: what is started: SGLang, or its emulation.
    """

    name: str
    pool: str
    role: Role
    gpus: tuple[int, ...]
    threads: int
    env: dict[str, str]
    argv: tuple[str, ...]
    needs_nccl_port: bool
    log: Path
    backend: Backend = "sglang"

    @property
    def needs_bootstrap_port(self) -> bool:
        """Whether decode workers meet this worker at a bootstrap server."""
        return self.role == "prefill"

    def with_key(self, key: str) -> WorkerPlan:
        """The same worker, which requires a key of everybody who talks to it."""
        return self.model_copy(update={"env": {**self.env, WORKER_KEY_VARIABLE: key}})


class RouterPlan(Strict):
    """The router.

    Attributes:
        host: address that it listens on.
        port: its port, which all of its processes share.
        fleet: the file that tells it what to serve.
        log: file for its output.
        tls: it speaks HTTPS.
        processes: how many it has.
        drain_timeout: seconds that it may take to let its requests end.
    """

    host: str
    port: int
    fleet: Path
    log: Path
    tls: bool = False
    processes: int = 1
    drain_timeout: float = 30.0

    def log_of(self, process: int) -> Path:
        """The file for one process's output."""
        return self.log if self.processes == 1 else self.log.with_name(f"router-{process}.log")

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


class LaunchPlan(Strict):
    """Everything that a topology becomes on one machine.

    Attributes:
        run_dir: directory of this run's files.
        workers: prefill and decode workers, in the order of the pools.
        router: the load balancer.
        transfer: the KV transfer backend of every worker.
        fleet: content of the router's fleet file, without workers: their addresses are not planned.
        notes: defaults that were left out because of a user's setting, as sentences.
    """

    run_dir: Path
    workers: tuple[WorkerPlan, ...]
    router: RouterPlan
    transfer: KvTransfer
    fleet: Fleet
    notes: tuple[str, ...] = ()


def make_plan(
    topology: Topology,
    machine: Machine,
    identities: Mapping[str, Identity | None],
    *,
    run_dir: Path,
    router_port: int,
    schema: FlagSchema | None = None,
) -> LaunchPlan:
    """Decide everything about a launch.

    Args:
        topology: what to run.
        machine: where.
        identities: each pool's identity; None, or no entry, where it could not be read.
        run_dir: directory for logs and the fleet file.
        router_port: where the router listens: the topology's port, or a free one where the topology has 0.
        schema: SGLang's flags, to write `false` and lists as SGLang wants them; also what it combines with a decode
            cache.

    Raises:
        TopologyError: the machine has too few GPUs, or settings contradict each other.
    """
    transfer = choose_transfer(topology, machine)
    gpus = assign_gpus(topology, machine)
    ranks = sum(p.replicas * ranks_per_worker(topology, name) for name, p in topology.pools.items())
    threads = max(1, machine.cores // ranks)
    beside_cache = schema.speculative_with_cache if schema else ()
    workers, notes = [], []
    for name, pool in topology.pools.items():
        flags = worker_flags(topology, machine, identities, name, transfer, beside_cache)
        notes += cache_notes(topology, identities, name, flags, beside_cache)
        backend = topology.backend_of(name)
        sim = to_argv(emulation_flags(topology.emulation_of(name))) if backend == "emulated" else ()
        for replica in range(pool.replicas):
            worker = f"{name}-{replica}"
            own: dict[str, Any] = {
                "model_path": pool.model,
                "revision": pool.revision,
                "served_model_name": name,
                "disaggregation_mode": pool.role,
            }
            workers.append(
                WorkerPlan(
                    name=worker,
                    pool=name,
                    role=pool.role,
                    gpus=gpus[worker],
                    threads=threads,
                    env=_environment([g for i in gpus[worker] for g in machine.gpus if g.index == i], threads)
                    | transfer.env
                    | ({} if gpus[worker] else _rank_cores(ranks_per_worker(topology, name), machine.cores)),
                    argv=(*to_argv(own | flags, schema), *sim),
                    needs_nccl_port=model_copies(topology, name) == 1,
                    backend=backend,
                    log=run_dir / "logs" / f"{worker}.log",
                )
            )
    router = RouterPlan(
        host=topology.router.host,
        port=router_port,
        fleet=run_dir / FLEET_FILE,
        log=run_dir / "logs" / "router.log",
        tls=topology.router.tls_cert is not None,
        processes=topology.router.processes,
        drain_timeout=topology.router.drain_timeout,
    )
    return LaunchPlan(
        run_dir=run_dir,
        workers=tuple(workers),
        router=router,
        transfer=transfer,
        fleet=_fleet(topology, router, run_dir / ADMIN_KEY),
        notes=tuple(notes),
    )


def _environment(gpus: Sequence[Gpu], threads: int) -> dict[str, str]:
    # SGLang looks a GPU's NUMA node up through torch, which knows no MIG device: the scheduler would end
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


def _fleet(topology: Topology, router: RouterPlan, admin_key: Path) -> Fleet:
    return Fleet(
        tasks=topology.tasks,
        pools={name: FleetPool(role=pool.role, model=pool.model) for name, pool in topology.pools.items()},
        workers=(),
        router=topology.router.model_copy(update={"port": router.port}),
        admin_key_file=str(admin_key),
    )
