"""The plan of a launch: the plans of its workers and of its router. Data only; `planner.py` makes it."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.worker_key import WORKER_KEY_VARIABLE
from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.planning.pool_settings import WorkerRole
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.strict import Strict
from sun_sglang.topology import Autoscale

ADMIN_KEY = "admin.key"
"""Name of the file with the launcher's own admin key."""

WORKER_KEY = "worker.key"
"""Name of the file with the worker key."""


class WorkerPlan(Strict):
    """One worker.

    Attributes:
        name: `<pool>-<replica>`.
        pool: the pool it belongs to.
        role: its pool's role.
        gpus: the numbers of its GPUs (`Gpu.index`); empty on the CPU.
        threads: value of `OMP_NUM_THREADS`.
        env: variables added to the environment of its processes.
        argv: SGLang's own flags, without the address, which the place completes at each start.
        needs_nccl_port: whether the place chooses the port where its ranks meet. SGLang chooses one for each copy of
            the model where a worker has several.
        log: file for its output.
        module: the Python module that runs it: `python -m MODULE`.
        forkable: whether it may be forked from one process that has imported SGLang.
        nodes: number of machines that it spans (SGLang's `nnodes`).
        standby: whether it is not started at first: its pool sizes itself.
    """

    name: str
    pool: str
    role: WorkerRole
    gpus: tuple[int, ...]
    threads: int
    env: dict[str, str]
    argv: tuple[str, ...]
    needs_nccl_port: bool
    log: Path
    module: str
    forkable: bool
    nodes: int = 1
    standby: bool = False

    @property
    def needs_bootstrap_port(self) -> bool:
        """Whether decode workers meet this worker at a bootstrap server."""
        return self.role == "prefill"

    def with_key(self, key: str) -> WorkerPlan:
        """Return the same worker, which requires this key in every request."""
        return self.model_copy(update={"env": {**self.env, WORKER_KEY_VARIABLE: key}})


class RouterPlan(Strict):
    """The router.

    Attributes:
        host: address that it listens on.
        port: its port, which all of its processes share.
        fleet: path of its fleet file.
        log: file for its output.
        tls: whether it serves HTTPS.
        processes: number of its processes.
        drain_timeout: seconds that its requests may take to end when it stops.
    """

    host: str
    port: int
    fleet: Path
    log: Path
    tls: bool = False
    processes: int = 1
    drain_timeout: float = 30.0

    def log_of(self, process: int) -> Path:
        """Return the file for one process's output."""
        return self.log if self.processes == 1 else self.log.with_name(f"router-{process}.log")

    @property
    def url(self) -> str:
        """The URL at which clients on this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


class PoolScaling(Strict):
    """A pool that sizes itself.

    Attributes:
        settings: as the topology has them.
        costs: the costs of its workers; None where they are learned.
    """

    settings: Autoscale
    costs: CostModel | None = None


class LaunchPlan(Strict):
    """Everything that one launch starts.

    Attributes:
        run_dir: directory of this run's files.
        workers: prefill and decode workers, in the order of the pools.
        router: the load balancer.
        transfer: the KV transfer backend of every worker.
        fleet: content of the router's fleet file, without workers: their addresses are not planned.
        notes: defaults that were left out because of a user's setting, as sentences.
        scaling: the pools that size themselves.
    """

    run_dir: Path
    workers: tuple[WorkerPlan, ...]
    router: RouterPlan
    transfer: KvTransfer
    fleet: Fleet
    notes: tuple[str, ...] = ()
    scaling: tuple[PoolScaling, ...] = ()
