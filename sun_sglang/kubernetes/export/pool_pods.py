"""Plan the pods of each pool with the launcher's planner: flags, environment and GPUs of one worker in a pod."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.errors import TopologyError, UserError
from sun_sglang.kubernetes.export.options import ExportOptions
from sun_sglang.kubernetes.labels import RUN_DIR, WORKER_PORT
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from sun_sglang.launch.planning.hardware.gpu_inventory import DEVICE_ORDER, VISIBLE_DEVICES, Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.kv_transfer import choose_transfer
from sun_sglang.launch.planning.plan import ADMIN_KEY, WorkerPlan
from sun_sglang.launch.planning.planner import make_fleet, plan_workers
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.launch.planning.pools import Checkpoint, ResolvedPool
from sun_sglang.launch.planning.preflight import preflight, read_pool_checkpoint
from sun_sglang.launch.planning.worker_kinds.worker_kind import WorkerKind
from sun_sglang.topology import EngineFlags, Topology

FILES_DIR: Final = "/etc/sun/files"
"""Where pods mount the small files of the topology, such as chat templates."""

_GIB = 1 << 30
# the image has it; mooncake is not in the package's extra `engine`
_TRANSFER = frozenset({"nixl"})
_MOST_FILE_BYTES = 1 << 19
# as many as any pool may need: which nodes have them is Kubernetes' to know
_GPUS = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="", memory_mb=0) for i in range(1024))


@dataclass(frozen=True)
class PoolPods:
    """The pods of one pool.

    Attributes:
        pool: the pool.
        worker: the plan of one worker, whose flags are complete but for the address.
        replicas: number of workers at first.
        gpus: GPUs of each pod.
        nodes: pods of each worker.
    """

    pool: ResolvedPool
    worker: WorkerPlan
    replicas: int
    gpus: int
    nodes: int


@dataclass(frozen=True)
class Planned:
    """A topology that was planned for pods.

    Attributes:
        pools: the pods of each pool, in file order.
        fleet: the router's fleet file, without workers.
        files: the content of small files by name under `FILES_DIR`.
        notes: sentences for people.
    """

    pools: tuple[PoolPods, ...]
    fleet: Fleet
    files: dict[str, str]
    notes: tuple[str, ...]


def plan_pods(topology: Topology, options: ExportOptions) -> Planned:
    """Check a topology as `sun launch` does, and plan its pods.

    A checkpoint that lies on this machine is checked; one that only the pods have is not.

    Args:
        topology: as `require_exportable` accepts it.
        options: of the command.

    Raises:
        UserError: a flag, a model, an adapter or a pair of models is wrong, or a file cannot be read.
    """
    secretless = topology.router.model_copy(update={"api_keys": None, "tls_cert": None, "tls_key": None})
    machine = Machine(
        gpus=_GPUS, cores=options.cpus, memory=options.memory_gb * _GIB, cpu_bf16=True, transfer_packages=_TRANSFER
    )
    schema = load_flag_schema()
    found = preflight(topology.model_copy(update={"router": secretless}), machine, schema, _read_where_present)
    transfer = choose_transfer(found.pools, machine)
    files = _Files()
    notes = list(found.notes)
    planned: list[PoolPods] = []
    for name, pool in found.pools.items():
        _require_even(pool)
        alone = replace(pool, replicas=1, gpus=None)
        (worker, *_), more = plan_workers({name: alone}, machine, transfer, run_dir=Path(RUN_DIR), schema=schema)
        notes += more
        planned.append(
            PoolPods(
                pool=pool,
                worker=_in_pod(worker, files.move(worker.argv, _paths(topology, name))),
                replicas=pool.replicas - len(pool.standby),
                gpus=pool.gpus_per_worker // pool.nodes,
                nodes=pool.nodes,
            )
        )
    fleet = make_fleet(topology, found.pools, topology.router.port, Path(RUN_DIR) / ADMIN_KEY)
    return Planned(tuple(planned), fleet, files.content, tuple(notes))


def _read_where_present(kind: WorkerKind, pool: PoolSettings, flags: EngineFlags) -> Checkpoint | None:
    """Return the facts of a checkpoint; None where it is on a volume that this machine has not."""
    path = Path(pool.model)
    if path.is_absolute() and not path.is_dir():
        return None
    return read_pool_checkpoint(kind, pool, flags)


def _require_even(pool: ResolvedPool) -> None:
    if pool.ranks % pool.nodes:
        problem = f"{pool.ranks} ranks cannot be divided among {pool.nodes} pods"
        raise TopologyError(pool.flag_path("nnodes"), problem, "choose sizes of which the product is a multiple of it")


def _in_pod(worker: WorkerPlan, argv: tuple[str, ...]) -> WorkerPlan:
    """Return a worker whose GPUs are those that its container sees."""
    env = {name: value for name, value in worker.env.items() if not worker.gpus or name not in _DEVICES}
    return worker.model_copy(update={"argv": argv, "env": env})


_DEVICES = (VISIBLE_DEVICES, *DEVICE_ORDER)


def _paths(topology: Topology, pool: str) -> list[tuple[str, str]]:
    """Return the small files that workers of a pool read: the YAML path of each, and its path here."""
    engine = topology.engine_of(pool)
    found = [(f"pools.{pool}.engine.{flag}", engine.get(flag)) for flag in ("chat_template", "quantization_param_path")]
    found.append((f"pools.{pool}.emulated.costs", topology.emulation_of(pool).costs))
    return [(where, path) for where, path in found if isinstance(path, str) and Path(path).is_absolute()]


class _Files:
    """Collects the files of this machine that pods get in a ConfigMap."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def move(self, argv: Iterable[str], paths: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return a command line that names the files as pods see them.

        Raises:
            UserError: a file cannot be read, is too large, or is no text.
        """
        moved = {path: f"{FILES_DIR}/{self._add(where, Path(path))}" for where, path in paths}
        return tuple(moved.get(argument, argument) for argument in argv)

    def _add(self, where: str, path: Path) -> str:
        if (known := self._names.get(str(path))) is not None:
            return known
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{where}: {path} cannot be put in a ConfigMap ({e})") from e
        if len(text.encode()) > _MOST_FILE_BYTES:
            raise UserError(f"{where}: {path} is over {_MOST_FILE_BYTES >> 10} KiB, too large for a ConfigMap")
        name = f"{len(self.content)}-{path.name}"
        self.content[name] = text
        self._names[str(path)] = name
        return name


def worker_command(pods: PoolPods) -> list[str]:
    """Return the command of a pool's containers; Kubernetes replaces `$(NAME)` by the variable's value."""
    at = ["--host", "$(POD_IP)", "--port", str(WORKER_PORT)]
    start = ["python", "-m", "sun_sglang.kubernetes.in_pod.start_worker", pods.worker.module]
    return [*start, *(_escaped(argument) for argument in pods.worker.argv), *at]


def _escaped(argument: str) -> str:
    """Return an argument in which Kubernetes replaces nothing."""
    return argument.replace("$(", "$$(")
