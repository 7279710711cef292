"""`sun export`: write a topology as the manifests of another system."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sun_sglang.errors import UserError

if TYPE_CHECKING:
    from sun_sglang.kubernetes.export.manifests import Export

EXAMPLE = "sun export kubernetes sun.yaml --image registry.example.com/sun-sglang:1"


class Target(StrEnum):
    """The systems for which there are manifests."""

    KUBERNETES = "kubernetes"


def command(
    target: Annotated[Target, typer.Argument(help="The system.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="A topology file.", show_default=False)],
    image: Annotated[str, typer.Option(help="Image of all containers, made from the Dockerfile.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the deployment, which begins the name of each object.")] = "sun",
    namespace: Annotated[str | None, typer.Option(help="Namespace; without it the one that kubectl uses.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write one file an object to this directory.")] = None,
    models_volume: Annotated[
        str | None, typer.Option(help="CLAIM=DIR: a PersistentVolumeClaim with the models under the topology's paths.")
    ] = None,
    cache_volume: Annotated[
        str | None, typer.Option(help="A PersistentVolumeClaim, writable by many pods, for downloads of models.")
    ] = None,
    hub_token_secret: Annotated[
        str | None, typer.Option(help="A Secret whose key `token` is a token for Hugging Face.")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, max=1024, help="Cores of each worker's pod.")] = 8,
    memory: Annotated[int, typer.Option(min=1, max=65536, help="Memory of each worker's pod, in GiB.")] = 64,
    gpu_resource: Annotated[str, typer.Option(help="The name under which nodes offer GPUs.")] = "nvidia.com/gpu",
) -> None:
    """Print the manifests that serve a topology on Kubernetes. They hold no secret; the commands for those follow."""
    from sun_sglang.kubernetes.export.manifests import export, to_yaml
    from sun_sglang.kubernetes.export.options import ExportOptions, parse_models_volume
    from sun_sglang.topology_file import load_topology

    options = ExportOptions(
        image=image,
        name=name,
        namespace=namespace,
        models=parse_models_volume(models_volume) if models_volume is not None else None,
        cache_claim=cache_volume,
        hub_token_secret=hub_token_secret,
        cpus=cpus,
        memory_gb=memory,
        gpu_resource=gpu_resource,
    )
    made = export(load_topology(file), options)
    if output is None:
        typer.echo(to_yaml(made.objects), nl=False)
    else:
        _write(made, output)
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo("Make these secrets before `kubectl apply`:", err=True)
    for secret in made.secrets:
        typer.echo(f"  {secret}", err=True)


def _write(made: Export, directory: Path) -> None:
    """Write one file an object.

    Raises:
        UserError: the directory has manifests of an earlier export that would stay, or cannot be written.
    """
    from sun_sglang.kubernetes.export.manifests import file_name, to_yaml

    files = {file_name(one): to_yaml((one,)) for one in made.objects}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stale = sorted(path.name for path in directory.glob("*.yaml") if path.name not in files)
        if stale:
            raise UserError(f"--output: {directory} has other manifests ({stale[0]}); remove them, or name another one")
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as e:
        raise UserError(f"--output: {directory} cannot be written ({e.strerror or e})") from e
