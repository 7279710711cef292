"""The options of `sun export kubernetes`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from sun_sglang.errors import UserError
from sun_sglang.kubernetes.labels import require_instance
from sun_sglang.strict import Strict

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_RESOURCE = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class ModelsVolume(NamedTuple):
    """A volume with the models, adapters and modules of a topology.

    Attributes:
        claim: the PersistentVolumeClaim.
        directory: where pods mount it: the directory that the topology's paths begin with.
    """

    claim: str
    directory: Path


class ExportOptions(Strict):
    """What a topology file does not tell.

    Attributes:
        image: the image of every container.
        name: name of the deployment; begins the name of every object.
        namespace: of every object; None leaves it to `kubectl`.
        models: the volume with models; None where every model is a Hugging Face id.
        cache_claim: PersistentVolumeClaim for downloads from Hugging Face; None lets each pod download for itself.
        hub_token_secret: Secret with the key `token`, for models that need one.
        cpus: cores of each worker's pod.
        memory_gb: memory of each worker's pod, in GiB.
        gpu_resource: the name under which nodes offer GPUs.
    """

    image: str
    name: str = "sun"
    namespace: str | None = None
    models: ModelsVolume | None = None
    cache_claim: str | None = None
    hub_token_secret: str | None = None
    cpus: int = Field(default=8, ge=1, le=1024)
    memory_gb: int = Field(default=64, ge=1, le=1 << 16)
    gpu_resource: str = "nvidia.com/gpu"

    @property
    def worker_key(self) -> str:
        """Name of the Secret with the worker key."""
        return f"{self.name}-worker-key"

    @property
    def api_keys(self) -> str:
        """Name of the Secret with the router's API keys."""
        return f"{self.name}-api-keys"

    @property
    def tls(self) -> str:
        """Name of the Secret with the router's certificate."""
        return f"{self.name}-tls"


def require_valid(options: ExportOptions) -> None:
    """Raise unless each name is one that Kubernetes takes.

    Raises:
        UserError: names the option.
    """
    require_instance(options.name)
    if not options.image:
        raise UserError("--image: is empty; name the image of every container, such as REGISTRY/NAME:TAG")
    if not _RESOURCE.fullmatch(options.gpu_resource):
        raise UserError(f"--gpu-resource: `{options.gpu_resource}` is no name of a resource, such as nvidia.com/gpu")
    if options.namespace is not None and not _NAMESPACE.fullmatch(options.namespace):
        raise UserError(f"--namespace: `{options.namespace}` is no name of a namespace")
    if not options.image.strip() or options.image != "".join(options.image.split()):
        raise UserError(f"--image: `{options.image}` is no name of an image")
    named = {"--cache-volume": options.cache_claim, "--hub-token-secret": options.hub_token_secret}
    named["--models-volume"] = options.models.claim if options.models else None
    for option, name in named.items():
        if name is not None and not _NAME.fullmatch(name):
            raise UserError(f"{option}: `{name}` is no name of a Kubernetes object")


def parse_models_volume(text: str) -> ModelsVolume:
    """Return the volume that `CLAIM=DIRECTORY` names.

    Raises:
        UserError: the text has another form, or the directory is not absolute.
    """
    claim, _, directory = text.partition("=")
    path = Path(directory)
    if not claim or not path.is_absolute() or path == Path("/"):
        raise UserError(f"--models-volume: write CLAIM=/DIRECTORY, such as models=/models (got `{text}`)")
    return ModelsVolume(claim, path)
