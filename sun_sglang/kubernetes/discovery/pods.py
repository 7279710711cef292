"""The pods of a deployment as the API server describes them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from sun_sglang.kubernetes.labels import POOL, WORKER_PORT
from sun_sglang.launch.places.place import Address

_ENDED = ("Succeeded", "Failed")


class Pod(NamedTuple):
    """A pod that is, or was, a worker.

    Attributes:
        name: its name, which is the worker's.
        uid: differs from that of a later pod with its name.
        pool: its pool.
        url: where the worker listens; empty before it has an address.
        leaving: it is being deleted.
        ended: all of its containers have ended for good.
    """

    name: str
    uid: str
    pool: str
    url: str
    leaving: bool = False
    ended: bool = False


Kind = Literal["ADDED", "MODIFIED", "DELETED"]


class Event(NamedTuple):
    """One event of a watch."""

    kind: Kind
    pod: Pod


def parse_pod(raw: Mapping[str, Any]) -> Pod | None:
    """Return a pod of the API; None for one without the label of a pool.

    A pod on the host's network or with a lost node keeps its address: whether it answers, the router's probes find out.
    """
    metadata, status = raw.get("metadata") or {}, raw.get("status") or {}
    pool = (metadata.get("labels") or {}).get(POOL)
    if not pool:
        return None
    address = status.get("podIP") or ""
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        pool=pool,
        url=Address(host=address, port=WORKER_PORT).url if address else "",
        leaving=metadata.get("deletionTimestamp") is not None,
        ended=status.get("phase") in _ENDED,
    )


class PodTable:
    """The pods by name. It is empty and unknown until the first complete list.

    Attributes:
        pods: the pods; None before the first list.
    """

    def __init__(self) -> None:
        self.pods: dict[str, Pod] | None = None

    def replace(self, pods: Iterable[Pod]) -> None:
        """Take over a complete list."""
        self.pods = {pod.name: pod for pod in pods}

    def apply(self, event: Event) -> None:
        """Take over one event, after a list."""
        assert self.pods is not None, "a watch begins with a list"
        known = self.pods.get(event.pod.name)
        if event.kind != "DELETED":
            self.pods[event.pod.name] = event.pod
        elif known is not None and known.uid == event.pod.uid:
            del self.pods[event.pod.name]
