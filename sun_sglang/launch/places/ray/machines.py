"""What the machines of a Ray cluster have: one short task on each of them."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sun_sglang.errors import UserError
from sun_sglang.launch.places.ray.calls import reason
from sun_sglang.launch.planning.hardware.gpu_inventory import VISIBLE_DEVICES
from sun_sglang.launch.planning.hardware.machine import Machine, detect_machine
from sun_sglang.strict import Strict

_PACKAGES = ("sun-sglang", "sglang")
# a busy machine takes its time: Ray starts a process for the task, with a low priority
_WITHIN_S = 180.0


class NodeReport(Strict):
    """What one machine reports.

    Attributes:
        machine: its resources.
        versions: the versions of the packages that must be the same everywhere; absent ones are left out.
    """

    machine: Machine
    versions: dict[str, str]


async def read_machines(nodes: Sequence[Mapping[str, Any]]) -> tuple[Machine, ...]:
    """Return the machines of a cluster.

    Args:
        nodes: those that may run workers, as `ray.nodes()` returns them.

    Raises:
        UserError: a machine cannot run this package, or has other versions than this one.
    """
    reports = await asyncio.gather(*(_report(node) for node in nodes))
    own = installed_versions()
    for node, report in zip(nodes, reports, strict=True):
        require_versions(node["NodeManagerAddress"], report.versions, own)
    return tuple(
        report.machine.model_copy(update={"gpus": report.machine.gpus[: int(node["Resources"].get("GPU", 0))]})
        for node, report in zip(nodes, reports, strict=True)
    )


async def _report(node: Mapping[str, Any]) -> NodeReport:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    task = ray.remote(report_node).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    address = node["NodeManagerAddress"]
    try:
        async with asyncio.timeout(_WITHIN_S):
            report: NodeReport = await task.remote()
            return report
    except TimeoutError:
        raise UserError(f"place: machine {address} of the Ray cluster does not answer within {_WITHIN_S:g} s") from None
    except ray.exceptions.RayError as e:
        if "No module named" in str(e):
            problem = f"cannot import this package ({str(e).strip().splitlines()[-1].strip()})"
        else:
            problem = f"cannot report what it has ({reason(e)})"
        raise UserError(
            f"place: machine {address} of the Ray cluster {problem}; install the same sun-sglang for the Python of "
            "`ray start` on every machine"
        ) from e


def report_node() -> NodeReport:
    """Return what this machine has; runs as a task of Ray."""
    # Ray hides all GPUs from a task that asks for none
    os.environ.pop(VISIBLE_DEVICES, None)
    return NodeReport(machine=detect_machine(), versions=installed_versions())


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that must be the same on all machines."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def require_versions(address: str, theirs: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Raise unless a machine has the versions of this one; a package that is not installed here is not compared.

    Raises:
        UserError: names the machine and both versions.
    """
    for name, version in own.items():
        if theirs.get(name) != version:
            raise UserError(
                f"place: machine {address} of the Ray cluster has {name} {theirs.get(name, '(none)')}, and this "
                f"machine has {version}; install the same version on every machine"
            )
