"""Topology -> processes: which worker runs where, with which flags. Pure: nothing is started, opened or imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from sun_sglang.errors import LaunchError, TopologyError
from sun_sglang.identity import Identity
from sun_sglang.launch.flags import FlagSchema, canonical, to_argv
from sun_sglang.launch.machine import Machine
from sun_sglang.topology import EngineFlags, Role, Strict, Topology

_HOST = "127.0.0.1"
_BOOTSTRAP_PORT = "--disaggregation-bootstrap-port"
PROMPT_ONLY_CACHE = "sun_prompt_only"

# KV memory of a worker without a GPU: this part of the memory is divided among all workers, ...
_CPU_KV_SHARE = 0.125
# ... and no worker gets more tokens than this, ...
_CPU_KV_TOKENS = 65536
# ... nor more than this where the checkpoint could not be read and a token's size is unknown.
_CPU_KV_TOKENS_UNREAD = 16384
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Transfer(Strict):
    """How KV gets from a prefill to a decode worker, and why so. `reason` is a sentence for people."""

    backend: str
    reason: str


class WorkerPlan(Strict):
    """One SGLang server.

    Attributes:
        name: `<pool>-<replica>`.
        pool: the pool it belongs to.
        role: its pool's role.
        host: address that it listens on.
        port: its HTTP port.
        bootstrap_port: where decode workers meet it; None on a decode worker.
        gpus: indices of its GPUs; empty on the CPU.
        threads: what `OMP_NUM_THREADS` is set to.
        env: variables added to the environment of its processes.
        argv: SGLang's own flags, complete.
        log: file for its output.
    """

    name: str
    pool: str
    role: Role
    host: str
    port: int
    bootstrap_port: int | None
    gpus: tuple[int, ...]
    threads: int
    env: dict[str, str]
    argv: tuple[str, ...]
    log: Path

    @property
    def url(self) -> str:
        """Where its HTTP server is reached."""
        return f"http://{self.host}:{self.port}"

    def reincarnated(self, bootstrap_port: int) -> WorkerPlan:
        """The same worker with a new bootstrap port, so that no decode worker meets the old one; decode: itself."""
        if self.bootstrap_port is None:
            return self
        at = self.argv.index(_BOOTSTRAP_PORT) + 1
        argv = (*self.argv[:at], str(bootstrap_port), *self.argv[at + 1 :])
        return self.model_copy(update={"bootstrap_port": bootstrap_port, "argv": argv})


class RouterPlan(Strict):
    """The router process. `fleet` is the file that tells it what to serve, `log` the file for its output."""

    host: str
    port: int
    fleet: Path
    log: Path

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        host = {"0.0.0.0": _HOST, "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"


class LaunchPlan(Strict):
    """Everything that a topology becomes on one machine.

    Attributes:
        run_dir: directory of this run's files.
        workers: prefill and decode workers, in the order of the pools.
        router: the load balancer.
        transfer: the KV transfer backend of every worker.
        fleet: content of the router's fleet file.
        notes: defaults that were left out because of a user's setting, as sentences.
    """

    run_dir: Path
    workers: tuple[WorkerPlan, ...]
    router: RouterPlan
    transfer: Transfer
    fleet: dict[str, Any]
    notes: tuple[str, ...] = ()


def make_plan(
    topology: Topology,
    machine: Machine,
    identities: Mapping[str, Identity | None],
    *,
    run_dir: Path,
    ports: Iterator[int],
    schema: FlagSchema | None = None,
) -> LaunchPlan:
    """Decide everything about a launch.

    Args:
        topology: what to run.
        machine: where.
        identities: each pool's identity; None, or no entry, where it could not be read.
        run_dir: directory for logs and the fleet file.
        ports: free TCP ports; as many as needed are taken. The router's own port is skipped.
        schema: SGLang's flags, to write `false` and lists as SGLang wants them.

    Raises:
        TopologyError: the machine has too few GPUs, or settings contradict each other.
        LaunchError: `ports` ran out.
    """
    transfer = choose_transfer(topology, machine)
    gpus = _assign_gpus(topology, machine)
    count = sum(p.replicas for p in topology.pools.values())
    threads = max(1, machine.cores // count)
    free = _Ports(ports, taken=topology.router.port)
    router_port = topology.router.port or free.take()
    workers, notes = [], []
    for name, pool in topology.pools.items():
        flags = worker_flags(topology, machine, identities, name, transfer)
        notes += _notes(topology, name, flags)
        for replica in range(pool.replicas):
            worker = f"{name}-{replica}"
            port, nccl_port = free.take(), free.take()
            bootstrap_port = free.take() if pool.role == "prefill" else None
            own: dict[str, Any] = {
                "model_path": pool.model,
                "revision": pool.revision,
                "served_model_name": name,
                "host": _HOST,
                "port": port,
                "nccl_port": nccl_port,
                "disaggregation_mode": pool.role,
                "disaggregation_bootstrap_port": bootstrap_port,
            }
            workers.append(
                WorkerPlan(
                    name=worker,
                    pool=name,
                    role=pool.role,
                    host=_HOST,
                    port=port,
                    bootstrap_port=bootstrap_port,
                    gpus=gpus[worker],
                    threads=threads,
                    env=_environment(gpus[worker], threads),
                    argv=to_argv(own | flags, schema),
                    log=run_dir / "logs" / f"{worker}.log",
                )
            )
    router = RouterPlan(
        host=topology.router.host, port=router_port, fleet=run_dir / "fleet.json", log=run_dir / "logs" / "router.log"
    )
    return LaunchPlan(
        run_dir=run_dir,
        workers=tuple(workers),
        router=router,
        transfer=transfer,
        fleet=_fleet(topology, workers, router),
        notes=tuple(notes),
    )


def worker_flags(
    topology: Topology,
    machine: Machine,
    identities: Mapping[str, Identity | None],
    pool: str,
    transfer: Transfer,
) -> EngineFlags:
    """SGLang flags of a pool's workers, without those that differ between its workers: defaults, then the user's own.

    Args:
        topology: the whole topology; which cache is right depends on the tasks.
        machine: a machine without a GPU needs other defaults.
        identities: each pool's identity, as far as known.
        pool: the pool's name.
        transfer: as chosen for the whole launch.
    """
    user = canonical(topology.engine_of(pool))
    role = topology.pools[pool].role
    defaults: EngineFlags = {"enable_cache_report": True}
    if not uses_gpu(topology, machine, pool):
        defaults |= dtype_default(topology, machine, pool) | _cpu_defaults(role)
        count = sum(p.replicas for p in topology.pools.values())
        defaults["max_total_tokens"] = cpu_kv_tokens(identities.get(pool), machine, count)
    if role == "decode" and not _cache_declined(user):
        defaults["disaggregation_decode_enable_radix_cache"] = True
        if not _same_weights(topology, identities, pool):
            defaults["radix_cache_backend"] = PROMPT_ONLY_CACHE
    return defaults | user | {"disaggregation_transfer_backend": transfer.backend}


def dtype_default(topology: Topology, machine: Machine, pool: str) -> EngineFlags:
    """The dtype of a pool whose user set none: SGLang's own on a GPU, what the processor can multiply without one."""
    if uses_gpu(topology, machine, pool):
        return {}
    return {"dtype": "bfloat16" if machine.cpu_bf16 else "float32"}


def uses_gpu(topology: Topology, machine: Machine, pool: str) -> bool:
    """Whether a pool's workers run on GPUs: as `device` says, else if the machine has any.

    Raises:
        TopologyError: `device` is neither `cuda` nor `cpu`.
    """
    device = topology.engine_of(pool).get("device")
    if device not in (None, "cuda", "cpu"):
        raise TopologyError(_where(topology, pool, "device"), f"`{device}` is not supported", "write `cuda` or `cpu`")
    return device == "cuda" or (device is None and bool(machine.gpus))


def cpu_kv_tokens(identity: Identity | None, machine: Machine, workers: int) -> int:
    """Tokens of KV that a worker without a GPU keeps.

    An eighth of the machine's memory is divided among its workers, up to 65,536 tokens each; 16,384 where the
    checkpoint could not be read. Without a bound SGLang takes most of the memory for each worker.
    """
    if identity is None:
        return _CPU_KV_TOKENS_UNREAD
    width = _DTYPE_BYTES.get(identity.kv_dtype, 4)
    token = 2 * identity.num_layers * identity.num_kv_heads * identity.head_dim * width
    return max(1, min(_CPU_KV_TOKENS, int(machine.memory * _CPU_KV_SHARE / workers) // token))


def choose_transfer(topology: Topology, machine: Machine) -> Transfer:
    """Pick the KV transfer backend of a whole launch; a user's `disaggregation_transfer_backend` wins.

    Raises:
        TopologyError: two pools ask for different ones; KV can then not get from one to the other.
    """
    key = "disaggregation_transfer_backend"
    asked = {name: topology.engine_of(name).get(key) for name in topology.pools}
    chosen = {str(backend) for backend in asked.values() if backend is not None}
    if len(chosen) > 1:
        raise TopologyError("pools", f"`{key}` differs: {asked}", "set it once, in the file's `engine`")
    if chosen:
        return Transfer(backend=chosen.pop(), reason="The topology sets it.")
    if not any(uses_gpu(topology, machine, name) for name in topology.pools):
        return Transfer(backend="mooncake_tcp", reason="Workers run on the CPU: mooncake over TCP needs no GPU.")
    return _gpu_transfer(machine)


def _gpu_transfer(machine: Machine) -> Transfer:
    if "mooncake" in machine.transfer and machine.rdma:
        return Transfer(backend="mooncake", reason=f"mooncake is installed and RDMA is there ({machine.rdma[0]}).")
    if "nixl" in machine.transfer:
        why = "there is no RDMA device" if not machine.rdma else "mooncake is not"
        return Transfer(backend="nixl", reason=f"NIXL is installed and {why}.")
    if "mooncake" in machine.transfer:
        return Transfer(backend="mooncake_tcp", reason="mooncake is installed, NIXL and RDMA are not there.")
    return Transfer(backend="nixl", reason="Neither NIXL nor mooncake is installed here: install `nixl`.")


class _Ports:
    """Ports from a user's iterator, none twice."""

    def __init__(self, ports: Iterator[int], taken: int) -> None:
        self._ports = ports
        self._taken = {taken}

    def take(self) -> int:
        for port in self._ports:
            if port not in self._taken:
                self._taken.add(port)
                return port
        raise LaunchError("there are not enough free ports")


def _cpu_defaults(role: Role) -> EngineFlags:
    flags: EngineFlags = {
        "device": "cpu",
        "attention_backend": "torch_native",
        "cuda_graph_backend_decode": "disabled",
        "cuda_graph_backend_prefill": "disabled",
        # an idle scheduler would burn a core
        "sleep_on_idle": True,
    }
    if role == "decode":
        # SGLang's default pins host memory through CUDA
        flags["disaggregation_decode_retraction_backup"] = "cpu_tensor"
    return flags


def _cache_declined(user: EngineFlags) -> bool:
    """Whether a user's setting leaves no room for a decode cache (SGLang: `arg_groups/pd_disaggregation_hook.py`)."""
    key = "disaggregation_decode_enable_radix_cache"
    return bool(_cache_obstacle(user) or user.get("disable_radix_cache") or (key in user and not user[key]))


def _cache_obstacle(user: EngineFlags) -> str | None:
    if user.get("enable_hisparse"):
        return "enable_hisparse"
    if user.get("speculative_algorithm") not in (None, "DSPARK"):
        return "speculative_algorithm"
    return None


def _notes(topology: Topology, pool: str, flags: EngineFlags) -> list[str]:
    if topology.pools[pool].role != "decode":
        return []
    obstacle = _cache_obstacle(flags)
    if obstacle:
        return [f"Pool `{pool}` has no decode cache: SGLang cannot combine it with `{obstacle}`."]
    asked = canonical(topology.engine_of(pool))
    if flags.get("disaggregation_decode_enable_radix_cache") and "radix_cache_backend" in asked:
        return [
            f"Pool `{pool}` sets `radix_cache_backend` itself: unless that cache leaves generated tokens out, a later "
            "turn of a conversation may be answered from the decode model's KV instead of the task's."
        ]
    return []


def _same_weights(topology: Topology, identities: Mapping[str, Identity | None], decode: str) -> bool:
    """Whether every task of a decode pool is prefilled by the very module that decodes it."""
    prefills = [task.prefill for task in topology.tasks.values() if task.decode == decode]
    return all(_one_module(topology, identities, prefill, decode) for prefill in prefills)


def _one_module(topology: Topology, identities: Mapping[str, Identity | None], prefill: str, decode: str) -> bool:
    a, b = topology.engine_of(prefill), topology.engine_of(decode)
    if any(a.get(key) != b.get(key) for key in ("quantization", "dtype", "load_format", "json_model_override_args")):
        return False
    left, right = identities.get(prefill), identities.get(decode)
    if left is not None and right is not None:
        return left.weights == right.weights
    p, d = topology.pools[prefill], topology.pools[decode]
    return (p.model, p.revision) == (d.model, d.revision)


def _assign_gpus(topology: Topology, machine: Machine) -> dict[str, tuple[int, ...]]:
    """GPUs by worker name: a pool's own `gpus`, else the next ones that no pool named."""
    named = {g for pool in topology.pools.values() for g in pool.gpus or ()}
    unnamed = iter([g.index for g in machine.gpus if g.index not in named])
    assigned: dict[str, tuple[int, ...]] = {}
    for name, pool in topology.pools.items():
        size = _gpus_per_worker(topology, name) if uses_gpu(topology, machine, name) else 0
        source = cycle(_own_gpus(name, pool.gpus, size, machine)) if pool.gpus else unnamed
        for replica in range(pool.replicas):
            assigned[f"{name}-{replica}"] = tuple(islice(source, size))
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
        size = _gpus_per_worker(topology, name)
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


def _gpus_per_worker(topology: Topology, pool: str) -> int:
    flags = canonical(topology.engine_of(pool))
    # with DP attention the data-parallel ranks are the tensor-parallel ones
    data = 1 if flags.get("enable_dp_attention") else int(flags.get("dp_size") or 1)
    return int(flags.get("tp_size") or 1) * int(flags.get("pp_size") or 1) * data


def _environment(gpus: tuple[int, ...], threads: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        # empty on the CPU, so that nothing takes a GPU by accident
        "CUDA_VISIBLE_DEVICES": ",".join(str(g) for g in gpus),
        # the address that a worker tells its peers; it is what they are started on
        "SGLANG_HOST_IP": _HOST,
    }


def _fleet(topology: Topology, workers: list[WorkerPlan], router: RouterPlan) -> dict[str, Any]:
    return {
        "tasks": {name: {"prefill": t.prefill, "decode": t.decode} for name, t in topology.tasks.items()},
        "pools": {name: {"role": p.role, "model": p.model} for name, p in topology.pools.items()},
        "workers": [{"name": w.name, "pool": w.pool, "url": w.url} for w in workers],
        "router": {**topology.router.model_dump(), "port": router.port},
    }


def _where(topology: Topology, pool: str, key: str) -> str:
    return f"pools.{pool}.engine.{key}" if key in topology.pools[pool].engine else f"engine.{key}"
