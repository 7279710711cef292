"""A topology as Kubernetes manifests: every object, in the order in which to apply them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from sun_sglang.kubernetes.export.checks import notes, require_exportable
from sun_sglang.kubernetes.export.network_objects import network_objects
from sun_sglang.kubernetes.export.options import ExportOptions, require_valid
from sun_sglang.kubernetes.export.pool_pods import plan_pods
from sun_sglang.kubernetes.export.router_objects import KEYS_FILE, in_pod, router_objects
from sun_sglang.kubernetes.export.worker_objects import pool_objects
from sun_sglang.kubernetes.labels import WORKER, labels, object_names
from sun_sglang.topology import Topology


@dataclass(frozen=True)
class Export:
    """The manifests of one topology.

    Attributes:
        objects: the objects.
        secrets: commands that make the Secrets which the objects refer to; no object holds one.
        notes: sentences on what the manifests do not have.
    """

    objects: tuple[dict[str, Any], ...]
    secrets: tuple[str, ...]
    notes: tuple[str, ...]


def export(topology: Topology, options: ExportOptions) -> Export:
    """Return the manifests of a topology.

    Args:
        topology: as loaded.
        options: of the command.

    Raises:
        UserError: an option is wrong, the topology has a mistake, or it has something that pods cannot have.
    """
    require_valid(options)
    require_exportable(topology, options)
    names = object_names(options.name, list(topology.pools))
    planned = plan_pods(topology, options)
    fleet = planned.fleet.model_copy(update={"router": in_pod(topology.router, options)})
    objects = [*router_objects(fleet, options)]
    if planned.files:
        metadata = {"name": f"{options.name}-files", "labels": labels(options.name, WORKER)}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": planned.files})
    for pods in planned.pools:
        drain = topology.router.drain_timeout
        objects += pool_objects(names[pods.pool.name], pods, options, drain, bool(planned.files))
    objects += network_objects(options, fleet.router.port)
    return Export(
        tuple(_in_namespace(one, options.namespace) for one in objects),
        tuple(_secrets(topology, options)),
        (*planned.notes, *notes(topology, options)),
    )


def file_name(manifest: dict[str, Any]) -> str:
    """Return the name of an object's file in a directory of manifests."""
    return f"{manifest['metadata']['name']}.{manifest['kind'].lower()}.yaml"


def to_yaml(objects: tuple[dict[str, Any], ...]) -> str:
    """Return objects as one YAML stream. Nothing is written as an alias: `kubectl` prints those as they are."""
    return "---\n".join(yaml.dump(one, Dumper=_Plain, sort_keys=False, width=120) for one in objects)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Write files as blocks."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Plain.add_representer(str, _Plain.represent_str)


def _in_namespace(manifest: dict[str, Any], namespace: str | None) -> dict[str, Any]:
    if namespace is None:
        return manifest
    metadata = manifest["metadata"]
    return manifest | {"metadata": {"name": metadata["name"], "namespace": namespace} | metadata}


def _secrets(topology: Topology, options: ExportOptions) -> list[str]:
    end = f" --namespace {options.namespace}" if options.namespace else ""
    random = '"$(head -c 32 /dev/urandom | base64 | tr +/ -_ | tr -d =)"'
    found = [f"generic {options.worker_key} --from-literal=key={random}"]
    router = topology.router
    if router.api_keys is not None:
        found.append(f"generic {options.api_keys} --from-file={KEYS_FILE}={router.api_keys}")
    if router.tls_cert is not None:
        found.append(f"tls {options.tls} --cert={router.tls_cert} --key={router.tls_key}")
    return [f"kubectl create secret {one}{end}" for one in found]
