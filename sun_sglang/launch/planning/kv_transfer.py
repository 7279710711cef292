"""Choose the backend that transfers KV from prefill to decode workers. Pure."""

from __future__ import annotations

from pydantic import Field

from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.hardware.rdma import protocol_for
from sun_sglang.launch.planning.pools import Pools
from sun_sglang.strict import Strict

# A request's KV is one transfer for each layer and each run of pages that are adjacent on both sides: thousands for a
# prompt of 500 tokens in a cache with gaps. By default mooncake queues 1,024 transfers and lets 1,024 more wait for a
# second; it rejects the next one, and SGLang then fails every request between the two workers for half a minute
# (`transport/tcp_transport/tcp_transport.cpp`; SGLang: `disaggregation/mooncake/conn.py`). These are its upper limits.
_TCP_QUEUES = {
    "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "65535",
    "MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER": "65535",
    "MC_TCP_ADMISSION_TIMEOUT_MS": "600000",
}


class KvTransfer(Strict):
    """The KV transfer of a launch.

    Attributes:
        backend: the value of SGLang's `disaggregation_transfer_backend`.
        reason: the reason for the choice, in sentences for people.
        env: variables that the workers need for it.
    """

    backend: str
    reason: str
    env: dict[str, str] = Field(default_factory=dict)


def choose_transfer(pools: Pools, machine: Machine) -> KvTransfer:
    """Return the KV transfer backend of a whole launch; a user's `disaggregation_transfer_backend` wins.

    Raises:
        TopologyError: two pools set different ones, so that KV cannot get from one to the other.
    """
    key = "disaggregation_transfer_backend"
    asked = {name: pool.flags.get(key) for name, pool in pools.items()}
    chosen = {str(backend) for backend in asked.values() if backend is not None}
    if len(chosen) > 1:
        raise TopologyError("pools", f"`{key}` differs: {asked}", "set it once, in the file's `engine`")
    backend, reason = _chosen_by_user(chosen.pop(), machine) if chosen else _default(pools, machine)
    return KvTransfer(backend=backend, reason=reason, env=_environment(backend, machine))


def _default(pools: Pools, machine: Machine) -> tuple[str, str]:
    if not any(pool.kind.moves_kv for pool in pools.values()):
        return "mooncake_tcp", "SGLang's flag requires a value: emulated workers move no KV."
    if any(pool.uses_gpu for pool in pools.values()):
        return _on_gpus(machine)
    if "nixl" in machine.transfer_packages and "mooncake" not in machine.transfer_packages:
        return "nixl", "Workers run on the CPU, and mooncake is not installed; NIXL keeps a core busy for each worker."
    return "mooncake_tcp", "Workers run on the CPU: mooncake over TCP needs no GPU."


def _chosen_by_user(backend: str, machine: Machine) -> tuple[str, str]:
    reason = "The topology sets it."
    if backend == "mooncake" and not _usable(machine):
        reason += f" It needs RDMA: {_no_rdma(machine)}."
    return backend, reason


def _on_gpus(machine: Machine) -> tuple[str, str]:
    if "nixl" in machine.transfer_packages:
        # over CUDA IPC; RDMA would send each page through a network card and back
        where = "All workers share this host, and NIXL is installed"
        return "nixl", f"{where}." if machine.machines == 1 else "NIXL is installed on every machine."
    if "mooncake" not in machine.transfer_packages:
        return "nixl", "Neither NIXL nor mooncake is installed here: install `nixl`."
    usable = _usable(machine)
    if usable:
        return "mooncake", f"mooncake is installed, NIXL is not, and RDMA works ({usable[0]})."
    return "mooncake_tcp", f"mooncake is installed, NIXL is not, and {_no_rdma(machine)}."


def _usable(machine: Machine) -> list[str]:
    return [str(device) for device in machine.rdma if not device.obstacle]


def _no_rdma(machine: Machine) -> str:
    found = "; ".join(map(str, machine.rdma))
    return f"no RDMA device can be used ({found})" if found else "there is no RDMA device"


def _environment(backend: str, machine: Machine) -> dict[str, str]:
    """Return the variables that mooncake needs; a variable that the user has set is left out."""
    needed = {"mooncake": protocol_for(machine.rdma), "mooncake_tcp": _TCP_QUEUES}.get(backend, {})
    return {name: value for name, value in needed.items() if not machine.mooncake_variables.get(name)}
