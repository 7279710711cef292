"""How KV gets from a prefill to a decode worker. Pure."""

from __future__ import annotations

from pydantic import Field

from sun_sglang.errors import TopologyError
from sun_sglang.launch.devices import uses_gpu
from sun_sglang.launch.machine import Machine
from sun_sglang.launch.rdma import protocol_for
from sun_sglang.topology import Strict, Topology


class Transfer(Strict):
    """How KV gets from a prefill to a decode worker.

    Attributes:
        backend: SGLang's name for it.
        reason: why it was chosen, in sentences for people.
        env: variables that workers need for it.
    """

    backend: str
    reason: str
    env: dict[str, str] = Field(default_factory=dict)


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
        return _chosen_by_user(chosen.pop(), machine)
    if all(topology.backend_of(name) == "emulated" for name in topology.pools):
        return Transfer(backend="mooncake_tcp", reason="Named only for form: emulated workers move no KV.")
    if not any(uses_gpu(topology, machine, name) for name in topology.pools):
        return Transfer(backend="mooncake_tcp", reason="Workers run on the CPU: mooncake over TCP needs no GPU.")
    return _gpu_transfer(machine)


def _chosen_by_user(backend: str, machine: Machine) -> Transfer:
    reason = "The topology sets it."
    if backend != "mooncake":
        return Transfer(backend=backend, reason=reason)
    if not _usable(machine):
        reason += f" It needs RDMA: {_no_rdma(machine)}."
    return Transfer(backend=backend, reason=reason, env=_mooncake_env(machine))


def _gpu_transfer(machine: Machine) -> Transfer:
    if "nixl" in machine.transfer:
        # over CUDA IPC; RDMA would send each page through a network card and back
        return Transfer(backend="nixl", reason="All workers share this host, and NIXL is installed.")
    if "mooncake" not in machine.transfer:
        return Transfer(backend="nixl", reason="Neither NIXL nor mooncake is installed here: install `nixl`.")
    usable = _usable(machine)
    if usable:
        reason = f"mooncake is installed, NIXL is not, and RDMA works ({usable[0]})."
        return Transfer(backend="mooncake", reason=reason, env=_mooncake_env(machine))
    return Transfer(backend="mooncake_tcp", reason=f"mooncake is installed, NIXL is not, and {_no_rdma(machine)}.")


def _usable(machine: Machine) -> list[str]:
    return [str(device) for device in machine.rdma if not device.obstacle]


def _no_rdma(machine: Machine) -> str:
    found = "; ".join(map(str, machine.rdma))
    return f"no RDMA device can be used ({found})" if found else "there is no RDMA device"


def _mooncake_env(machine: Machine) -> dict[str, str]:
    """Return mooncake's protocol where the devices need another than its default; a user's own setting stays."""
    return {} if machine.mooncake_protocol else protocol_for(machine.rdma)
