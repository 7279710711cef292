"""The room of a worker in a Ray cluster: what is asked for, and why there is none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sun_sglang.launch.places.place import Needs

Bundle = dict[str, float]


def bundles(needs: Needs) -> list[Bundle]:
    """Return the resources of a worker's placement group: one bundle for each machine of the worker.

    A bundle has one CPU of Ray, which only counts: threads are an equal share of the cluster's cores, and shares need
    not add up on each machine. GPUs are Ray's own, whole ones.
    """
    gpus = needs.gpus // needs.nodes
    return [{"CPU": 1.0, **({"GPU": float(gpus)} if gpus else {})} for _ in range(needs.nodes)]


def usable_nodes(nodes: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Return the live machines of a cluster that may run workers: those with a CPU of Ray and all of the labels.

    Args:
        nodes: as `ray.nodes()` returns them.
        labels: names and values that a machine must have.
    """
    return [
        node
        for node in nodes
        if node["Alive"]
        and node["Resources"].get("CPU", 0) >= 1
        and labels.items() <= dict(node.get("Labels") or {}).items()
    ]


def describe_room(wanted: Sequence[Bundle], nodes: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Return a sentence's end on the room that a worker needs and on the cluster that does not have it.

    Args:
        wanted: the bundles of the worker.
        nodes: as `ray.nodes()` returns them.
        labels: names and values that a machine must have.
    """
    each = " and ".join(f"{count:g} {name}" for name, count in wanted[0].items())
    needed = f"{len(wanted)} machines with {each} each" if len(wanted) > 1 else f"a machine with {each}"
    usable = usable_nodes(nodes, labels)
    has = ", ".join(
        f"{node['NodeManagerAddress']}: "
        + " and ".join(f"{node['Resources'].get(name, 0):g} {name}" for name in wanted[0])
        for node in usable
    )
    where = f" labelled {', '.join(f'{k}={v}' for k, v in labels.items())}" if labels else ""
    return f"it needs {needed} that no other worker holds; the cluster has{where} {has or 'no machine'}"
