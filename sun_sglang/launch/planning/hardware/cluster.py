"""Several machines as one, for a plan: which of them a worker runs on is chosen when it starts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.launch.planning.hardware.machine import Machine


def as_one(machines: Sequence[Machine]) -> Machine:
    """Return what a worker finds on any of some machines, and the GPUs of all of them, numbered from 0.

    Cores and memory are those of the smallest machine. Packages and RDMA devices count where every machine has them.
    """
    first, *others = machines
    if not others:
        return first
    gpus = [gpu for machine in machines for gpu in machine.gpus]
    least_rdma = min(machines, key=lambda machine: sum(not device.obstacle for device in machine.rdma))
    return Machine(
        gpus=tuple(gpu.model_copy(update={"index": index}) for index, gpu in enumerate(gpus)),
        gpu_problem=next((machine.gpu_problem for machine in machines if machine.gpu_problem), ""),
        cores=min(machine.cores for machine in machines),
        memory=min(machine.memory for machine in machines),
        cpu_bf16=all(machine.cpu_bf16 for machine in machines),
        rdma=least_rdma.rdma,
        mooncake_variables=least_rdma.mooncake_variables,
        transfer_packages=frozenset.intersection(*(machine.transfer_packages for machine in machines)),
        machines=len(machines),
    )
