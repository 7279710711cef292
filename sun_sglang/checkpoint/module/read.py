"""Read the checkpoint of a module that takes turns on a prefill worker."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.checkpoint.config_file import require_no_adapter
from sun_sglang.checkpoint.tensor_file import safetensors_of
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.contracts.module_file import read_served_module
from sun_sglang.errors import CheckpointError


def read_module(directory: Path) -> ModuleRef:
    """Return the module in a directory.

    Raises:
        CheckpointError: the directory holds no checkpoint, holds a LoRA adapter, or cannot be read; or a file in it is
            no regular one.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: is not a directory; give the directory of a checkpoint")
    require_files(directory)
    require_no_adapter(directory)
    revision, served = weights_revision(directory), read_served_module(directory)
    return ModuleRef(
        directory=str(directory),
        revision=revision,
        size=module_size(directory),
        tuned_for=served.decoder if served is not None else "",
        first_token=served.first_token if served is not None else "prefill",
    )


def require_files(directory: Path) -> None:
    """Raise if a directory holds a pipe, a socket or a device: to read it may never end.

    Raises:
        CheckpointError: names it; or the directory cannot be read.
    """
    try:
        # a link that leads nowhere is an error once it is needed
        special = next((path for path in sorted(directory.iterdir()) if path.exists() and not _is_plain(path)), None)
    except OSError as e:
        raise CheckpointError(f"{directory}: cannot be read ({e.strerror or e})") from e
    if special is not None:
        raise CheckpointError(f"{special}: is neither a file nor a directory; remove it")


def _is_plain(path: Path) -> bool:
    return path.is_file() or path.is_dir()


def module_size(directory: Path) -> int:
    """Return the bytes of a checkpoint's safetensors files.

    Raises:
        CheckpointError: there is none, or one cannot be read.
    """
    try:
        return sum(file.stat().st_size for file in safetensors_of(directory))
    except OSError as e:
        raise CheckpointError(f"{directory}: cannot be read ({e.strerror or e})") from e
