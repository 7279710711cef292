"""How KV gets from a prefill to a decode worker. Pure."""

from __future__ import annotations

from sun_sglang.errors import TopologyError
from sun_sglang.launch.devices import uses_gpu
from sun_sglang.launch.machine import Machine
from sun_sglang.topology import Strict, Topology


class Transfer(Strict):
    """How KV gets from a prefill to a decode worker, and why so. `reason` is a sentence for people."""

    backend: str
    reason: str


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
    if all(topology.backend_of(name) == "emulated" for name in topology.pools):
        return Transfer(backend="mooncake_tcp", reason="Named only for form: emulated workers move no KV.")
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
