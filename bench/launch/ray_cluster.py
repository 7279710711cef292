"""A Ray cluster of two nodes on this machine, for benchmarks and tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psutil

# the machine's own address is not known in advance, and Ray replaces 127.0.0.1 by it
HOSTS = ("127.0.0.2", "127.0.0.3")
_STORE_BYTES = 80 << 20
# with its usual low priority, Ray's processes wait for all others of a busy machine
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
_VARIABLES = (*_SETTINGS, "RAY_TMPDIR")
# a node without an answer to three checks of a second is lost
_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


class TwoNodes(NamedTuple):
    """A running cluster.

    Attributes:
        address: HOST:PORT of its head.
        cluster: Ray's handle of it.
        second: Ray's handle of its second node.
    """

    address: str
    cluster: Any
    second: Any


def raylet_of(node: Any) -> int:
    """Return the process id of a node's raylet."""
    (raylet,) = node.all_processes["raylet"]
    return int(raylet.process.pid)


def kill_raylet(node: Any) -> None:
    """Kill a node's raylet with SIGKILL, as a machine's out-of-memory killer would."""
    os.kill(raylet_of(node), signal.SIGKILL)


def add_node(cluster: Any, host: str, cpus: int, labels: dict[str, str] | None = None) -> Any:
    """Start another node of a cluster, and return Ray's handle of it.

    Ray gives a node 30 seconds to start, which a machine with other work may need: a second try follows.
    """
    settings = {"num_cpus": cpus, "num_gpus": 0, "node_ip_address": host, "object_store_memory": _STORE_BYTES}
    try:
        return cluster.add_node(**settings, labels=labels or {})
    except Exception as e:
        if "timed out during startup" not in str(e):
            raise
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(word.endswith(f"node_ip_address={host}") for word in process.cmdline()):
                process.kill()
    return cluster.add_node(**settings, labels=labels or {})


@contextmanager
def two_nodes(cpus: int) -> Iterator[TwoNodes]:
    """Run a cluster of two nodes with `cpus` CPUs of Ray each; no node is left at the end."""
    from ray.cluster_utils import Cluster

    # a short path: sockets below it have at most 107 characters
    directory = tempfile.mkdtemp(prefix="sun-ray-", dir="/tmp")
    before = {name: os.environ.get(name) for name in _VARIABLES}
    # `auto` then means this cluster, for this process and those that it starts
    os.environ.update({**_SETTINGS, "RAY_TMPDIR": directory})
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": cpus,
            "num_gpus": 0,
            "node_ip_address": HOSTS[0],
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "_system_config": _HEALTH_CHECKS,
        },
    )
    try:
        second = add_node(cluster, HOSTS[1], cpus, {"side": "second"})
        yield TwoNodes(cluster.address, cluster, second)
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in (name for name, value in before.items() if value is None):
            del os.environ[name]
        shutil.rmtree(directory, ignore_errors=True)
