"""The names that manifests and discovery agree on: labels, ports, paths in pods, and names of objects. Pure."""

from __future__ import annotations

import re
from typing import Final

from sun_sglang.errors import TopologyError, UserError

INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
POOL: Final = "sun-sglang/pool"
ROLE: Final = "sun-sglang/role"

WORKER: Final = "worker"
"""Component of a pod that serves HTTP: a worker, or the first pod of one that spans machines."""

RANK: Final = "rank"
"""Component of the other pods of a worker that spans machines. The router does not know them."""

ROUTER: Final = "router"
"""Component of the router's pods."""

WORKER_PORT: Final = 30000
RENDEZVOUS_PORT: Final = 20000
RUN_DIR: Final = "/run/sun"
"""Directory of the router's fleet file and of its own admin key, as the launcher's run directory."""

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
# The name of a pod has 63 characters at most. A ReplicaSet adds 17 (`-`, a hash of 10, `-` and 5 random ones) and cuts
# a longer name short, so that it would no longer begin with its deployment's.
_LONGEST = 46


def labels(instance: str, component: str, pool: str | None = None, role: str | None = None) -> dict[str, str]:
    """Return the labels of an object.

    Args:
        instance: name of the deployment.
        component: `WORKER`, `RANK` or `ROUTER`.
        pool: the pool of a worker.
        role: its role.
    """
    of_pool = {} if pool is None else {POOL: pool}
    return selector(instance, component) | of_pool | ({} if role is None else {ROLE: role}) | _COMMON


def selector(instance: str, component: str | None = None) -> dict[str, str]:
    """Return the labels that select the pods of a deployment, or of one component of it."""
    return {INSTANCE: instance} | ({} if component is None else {COMPONENT: component})


_COMMON: Final = {
    "app.kubernetes.io/name": "sun-sglang",
    "app.kubernetes.io/part-of": "sun-sglang",
    "app.kubernetes.io/managed-by": "sun-export",
}


def require_instance(name: str) -> str:
    """Return the name of a deployment.

    Raises:
        UserError: it cannot begin the name of a Service.
    """
    if not _NAME.fullmatch(name) or len(name) > 30:
        raise UserError(f"--name: `{name}` must be at most 30 lower-case letters, digits and `-`, from a letter on")
    return name


def object_names(instance: str, pools: list[str]) -> dict[str, str]:
    """Return the name of each pool's Deployment and Service.

    Raises:
        TopologyError: a pool's name cannot be a label, is too long, or differs from another one's in signs alone.
    """
    names: dict[str, str] = {}
    for pool in pools:
        name = f"{instance}-{re.sub('[^a-z0-9]+', '-', pool.lower()).strip('-')}"
        where = f"pools.{pool}"
        if not _LABEL_VALUE.fullmatch(pool):
            raise TopologyError(where, "is not the value of a label", "use at most 63 characters; the last is no sign")
        if len(name) > _LONGEST:
            problem = f"`{name}` is longer than {_LONGEST} characters, and Kubernetes would cut its pods' names short"
            raise TopologyError(where, problem, "rename the pool, or give a shorter `--name`")
        twin = next((other for other, taken in names.items() if taken == name), None)
        if twin is not None or name in (f"{instance}-{ROUTER}", f"{instance}-worker-key"):
            other = f"`{twin}` would be too" if twin is not None else "the deployment's own object is too"
            raise TopologyError(where, f"would be named `{name}` on Kubernetes, and {other}", "rename the pool")
        names[pool] = name
    return names
