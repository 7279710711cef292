"""The NetworkPolicies of a deployment. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sun_sglang.kubernetes.export.options import ExportOptions
from sun_sglang.kubernetes.labels import COMPONENT, INSTANCE, RANK, ROUTER, WORKER, labels, selector


def network_objects(options: ExportOptions, router_port: int) -> Iterator[dict[str, Any]]:
    """Yield the policies: the deployment's pods alone reach workers, and everyone reaches the router's port.

    SGLang's bootstrap, rendezvous and KV transfer ports require no key, and are chosen while it runs: all ports of a
    worker are open to the deployment and to nobody else.

    Args:
        options: of the command.
        router_port: the port of the router's containers.
    """
    deployment = {"podSelector": {"matchLabels": selector(options.name)}}
    workers = [{"key": COMPONENT, "operator": "In", "values": [WORKER, RANK]}]
    yield _policy(
        f"{options.name}-workers",
        labels(options.name, WORKER),
        {"matchLabels": {INSTANCE: options.name}, "matchExpressions": workers},
        {"from": [deployment]},
    )
    yield _policy(
        f"{options.name}-{ROUTER}",
        labels(options.name, ROUTER),
        {"matchLabels": selector(options.name, ROUTER)},
        {"ports": [{"port": router_port, "protocol": "TCP"}]},
    )


def _policy(name: str, own: dict[str, str], pods: dict[str, Any], ingress: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": own},
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": [ingress]},
    }
