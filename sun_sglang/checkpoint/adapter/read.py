"""Read a LoRA adapter's directory into an `AdapterRef`, or refuse it with one error."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from sun_sglang.checkpoint.adapter.finite import not_finite
from sun_sglang.checkpoint.adapter.layers import WEIGHTS, ChangedLayer, read_layers
from sun_sglang.checkpoint.adapter.settings import CONFIG, AdapterSettings, read_settings
from sun_sglang.contracts.adapter import FINGERPRINT_FILE, LEAST_EFFECT, AdapterRef, Fingerprint
from sun_sglang.contracts.module_file import MODULE_FILE, read_served_module
from sun_sglang.errors import CheckpointError
from sun_sglang.strict import first_invalid

FileStates = tuple[tuple[Path, int, int, int], ...]

# the router parses JSON while it serves requests
_MOST_JSON = 1 << 20


def read_adapter(directory: Path) -> AdapterRef:
    """Return the adapter in a directory. Reads every byte of it.

    Args:
        directory: absolute path of a directory that `save_pretrained` of PEFT wrote, with a `sun.json` and a
            fingerprint where `sun train` made it.

    Raises:
        CheckpointError: the directory holds no adapter, a file is missing, truncated or wrong, or SGLang would compute
            otherwise with the adapter than PEFT; names the file and the fix.
    """
    settings, layers = read_changes(directory)
    _require_plain(directory / MODULE_FILE, _MOST_JSON)
    module = read_served_module(directory)
    try:
        return AdapterRef(
            directory=str(directory),
            revision=_revision(directory, settings),
            rank=settings.rank,
            target_modules=tuple(sorted({layer.module.rpartition(".")[2] for layer in layers})),
            base=module.base if module else "",
            tuned_for=module.decoder if module else "",
            first_token=module.first_token if module else "prefill",
            fingerprint=read_fingerprint(directory),
        )
    except ValidationError as e:
        raise CheckpointError(f"{directory}: {first_invalid(e, AdapterRef).describe()}") from e


def read_changes(directory: Path) -> tuple[AdapterSettings, tuple[ChangedLayer, ...]]:
    """Return the settings of an adapter and the layers that it changes. Reads no weights.

    Raises:
        CheckpointError: as `read_adapter` raises it.
    """
    try:
        _require_adapter(directory)
        _require_plain(directory / CONFIG, _MOST_JSON)
        _require_plain(directory / WEIGHTS)
    except OSError as e:
        raise CheckpointError(f"{directory}: cannot be read ({e.strerror or e})") from e
    settings = read_settings(directory)
    return settings, read_layers(directory, settings)


def read_fingerprint(directory: Path) -> Fingerprint | None:
    """Return the fingerprint beside an adapter; None where there is none.

    Raises:
        CheckpointError: the file cannot be read, or holds no fingerprint.
    """
    path = directory / FINGERPRINT_FILE
    # a link to nothing is a fingerprint that is lost, and not none
    if not os.path.lexists(path):
        return None
    _require_plain(path, _MOST_JSON)
    fix = "remove it, or write it again with `sun fingerprint`"
    try:
        found = Fingerprint.model_validate_json(path.read_bytes())
    except ValidationError as e:
        raise CheckpointError(f"{path}: {first_invalid(e, Fingerprint).describe('its content')}; {fix}") from e
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror or e}); {fix}") from e
    if found.effect <= LEAST_EFFECT:
        raise CheckpointError(f"{path}: shows no effect of the adapter, so no worker could pass; {fix}")
    return found


def file_states(directory: Path) -> FileStates:
    """Return path, size, time and inode of the files that decide what an adapter computes: equal while none changes.

    Raises:
        CheckpointError: a file is missing.
    """
    states = []
    for path in (directory / CONFIG, directory / WEIGHTS):
        try:
            found = path.stat()
        except OSError as e:
            raise CheckpointError(f"{path}: cannot be read ({e.strerror or e})") from e
        # the time of modification may be copied with a file, and be equal in all files of an image; this one is not
        states.append((path, found.st_size, found.st_ctime_ns, found.st_ino))
    return tuple(states)


def _require_adapter(directory: Path) -> None:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: is not a directory; name the directory of a LoRA adapter")
    if (directory / CONFIG).exists():
        return
    if (directory / "config.json").exists():
        raise CheckpointError(
            f"{directory}: holds a model and no LoRA adapter; name it as the `model` of a prefill pool, and give the "
            "task no adapter"
        )
    inner = directory / "adapter"
    if (inner / CONFIG).exists():
        raise CheckpointError(f"{directory}: holds no {CONFIG}; `sun train` wrote the adapter into {inner}: name that")
    raise CheckpointError(f"{directory}: holds no {CONFIG}; name a directory that `save_pretrained` of peft wrote")


def _require_plain(path: Path, most: int | None = None) -> None:
    """Raise for a file whose reader would wait for ever, or for long: a pipe, a device, or more bytes than `most`."""
    if not path.exists():
        return
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path}: is not a regular file; copy the adapter again")
    if most is not None and found.st_size > most:
        raise CheckpointError(f"{path}: has {found.st_size:,} bytes, and may have {most:,}; copy the adapter again")


def _revision(directory: Path, settings: AdapterSettings) -> str:
    """Return the digest of what an adapter computes: 16 hex characters. Raises for weights that are not finite."""
    effective = {"rank": settings.rank, "scaling": settings.scaling}
    start = json.dumps(effective, sort_keys=True).encode()
    weights = next(state for state in file_states(directory) if state[0].name == WEIGHTS)
    if broken := not_finite(*weights):
        raise CheckpointError(f"{weights[0]}: `{broken}` has a value that is NaN or infinite; train the adapter again")
    try:
        return _digest(start, *weights)
    except OSError as e:
        raise CheckpointError(f"{weights[0]}: cannot be read ({e.strerror or e})") from e


@lru_cache(maxsize=4096)
def _digest(start: bytes, path: Path, _size: int, _time: int, _inode: int) -> str:
    digest = hashlib.sha256(start)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]
