"""Decide which changes bring the router's workers in step with the pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sun_sglang.kubernetes.discovery.pods import Pod


class Known(NamedTuple):
    """A worker that the router has.

    Attributes:
        name: its name.
        pool: its pool.
        url: its address.
        state: as `GET /workers` shows it; `leaving` for one that is removed and still has requests.
    """

    name: str
    pool: str
    url: str
    state: str


class Add(NamedTuple):
    """Add a pod as a worker."""

    pod: Pod


class Drain(NamedTuple):
    """Send a worker no new requests, and let its answers go on elsewhere: its pod is being deleted."""

    pod: Pod


class Remove(NamedTuple):
    """Remove a worker.

    Attributes:
        name: the worker.
        force: at once: another pod has its name. Else its last requests end first, each as the router decides.
    """

    name: str
    force: bool = False


Change = Add | Drain | Remove


def changes(
    pods: Mapping[str, Pod], workers: Iterable[Known], added: Mapping[str, str], drained: Mapping[str, str], prefix: str
) -> list[Change]:
    """Return the changes that are due, in the order in which to make them.

    New workers come first, so that the answers of those that leave have somewhere to go. A worker whose name does not
    begin with the deployment's was added by hand and stays as it is, and so does a worker that was drained by hand.

    Args:
        pods: the pods by name.
        workers: the router's workers.
        added: the uid of the pod for which this process added a worker, by name.
        drained: the uid of the pod for which this process drained a worker, by name.
        prefix: begins the name of each pod of the deployment.
    """
    known = {worker.name: worker for worker in workers if worker.name.startswith(prefix)}
    add, drain, remove, replace = list[Change](), list[Change](), list[Change](), list[Change]()
    for name, worker in known.items():
        pod = pods.get(name)
        if pod is None or pod.ended:
            if worker.state != "leaving":
                remove.append(Remove(name))
        elif _is_other(pod, worker, added):
            # the earlier pod is gone: a name is free only then
            replace.append(Remove(name, force=True))
        elif pod.leaving and worker.state != "leaving" and drained.get(name) != pod.uid:
            drain.append(Drain(pod))
    gone = {change.name for change in replace if isinstance(change, Remove)}
    for pod in pods.values():
        serves = bool(pod.url) and not pod.leaving and not pod.ended
        if serves and (pod.name not in known or pod.name in gone):
            add.append(Add(pod))
    return [*replace, *add, *drain, *remove]


def _is_other(pod: Pod, worker: Known, added: Mapping[str, str]) -> bool:
    """Return whether a worker was added for an earlier pod of this name, as a StatefulSet's pods have one."""
    moved = bool(pod.url) and (worker.url, worker.pool) != (pod.url, pod.pool)
    return moved or added.get(pod.name, pod.uid) != pod.uid
