"""What a topology has that pods cannot have: one error each, or a note. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sun_sglang.errors import TopologyError
from sun_sglang.kubernetes.export.options import ExportOptions
from sun_sglang.topology import Topology

_LOOPBACK = ("127.0.0.1", "0.0.0.0", "::", "::1", "localhost")


def require_exportable(topology: Topology, options: ExportOptions) -> None:
    """Raise for the first thing that names this machine and not a pod.

    Raises:
        TopologyError: names it by its YAML path, and the fix.
    """
    if topology.router.port == 0:
        raise TopologyError("router.port", "is 0, and a Service needs a fixed port", "write one, such as 8000")
    if topology.router.port < 1024:
        problem = f"is {topology.router.port}, and the router's container does not run as root"
        raise TopologyError(
            "router.port", problem, "write one from 1024 on; a Service or an Ingress can have the other"
        )
    for name, pool in topology.pools.items():
        if pool.gpus is not None:
            problem = "has indices of one machine's GPUs; Kubernetes gives each pod GPUs of its own"
            raise TopologyError(f"pools.{name}.gpus", problem, "remove it")
    for where, path in _directories(topology):
        if options.models is None:
            fix = "put it on a volume that the pods share, and name that: --models-volume CLAIM=DIRECTORY"
            raise TopologyError(where, f"{path} is a directory of this machine", fix)
        if not path.is_relative_to(options.models.directory):
            problem = f"{path} is not in {options.models.directory}, where the pods mount `{options.models.claim}`"
            raise TopologyError(where, problem, "move it there, or name a directory that holds all of them")


def notes(topology: Topology, options: ExportOptions) -> Iterator[str]:
    """Yield a sentence on each setting that the manifests do not have as it is."""
    if topology.router.host not in _LOOPBACK:
        yield f"`router.host` {topology.router.host} is left out: the router listens on its pod's addresses."
    if topology.router.processes > 1:
        yield f"`router.processes` {topology.router.processes} is left out: the router's container has one process."
    if topology.place.kind != "local":
        yield f"`place: {topology.place.kind}` is left out: Kubernetes runs the workers."
    for scaled in topology.autoscale:
        yield (
            f"`autoscale` of `{scaled.pool}` is left out: the launcher sizes pools, and it does not run here. "
            "docs/kubernetes.md shows the HorizontalPodAutoscaler for it."
        )
    downloads = [
        name
        for name, pool in topology.pools.items()
        if topology.backend_of(name) == "sglang" and not Path(pool.model).is_absolute()
    ]
    if downloads and options.cache_claim is None:
        yield "Each pod downloads its model from Hugging Face when it starts; --cache-volume CLAIM keeps downloads."


def _directories(topology: Topology) -> Iterator[tuple[str, Path]]:
    """Yield the YAML path of each directory that workers read, and the directory."""
    for name, pool in topology.pools.items():
        if Path(pool.model).is_absolute():
            yield f"pools.{name}.model", Path(pool.model)
        tokenizer = topology.engine_of(name).get("tokenizer_path")
        if isinstance(tokenizer, str) and Path(tokenizer).is_absolute():
            yield f"pools.{name}.engine.tokenizer_path", Path(tokenizer)
    for name, task in topology.tasks.items():
        for field, given in (("adapter", task.adapter), ("model", task.model)):
            if given is not None:
                yield f"tasks.{name}.{field}", Path(given)
