"""The revision of a checkpoint's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from sun_sglang.checkpoint.tensor_file import parse_header, read_header, safetensors_of
from sun_sglang.errors import CheckpointError

_SAMPLE_ABOVE = 1 << 30
_SAMPLE_BYTES = 4096


def weights_revision(model: Path) -> str:
    """Return a digest of a checkpoint's weights, 16 hex characters: equal revisions make equal KV for equal prompts.

    Below 1 GiB the digest covers every byte. Above, it covers the safetensors headers and the first and last 4 KiB of
    every tensor: a tuned tensor differs there, and a start does not read 16 GB.

    Raises:
        CheckpointError: there is no `*.safetensors` file, or one cannot be read.
    """
    files = safetensors_of(model)
    try:
        return _weights_revision(tuple((f, f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{model}: its weights cannot be read ({e})") from e


@lru_cache(maxsize=256)
def _weights_revision(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    sampled = sum(size for _, size, _ in files) > _SAMPLE_ABOVE
    for path, _, _ in files:
        for chunk in _tensor_samples(path) if sampled else _whole(path):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _whole(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            yield chunk


def _tensor_samples(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        header = read_header(f)
        yield header
        for _, tensor in sorted(parse_header(header).items()):
            start, end = tensor.start, tensor.end
            for offset in (start, max(start, end - _SAMPLE_BYTES)):
                f.seek(8 + len(header) + offset)
                yield f.read(min(_SAMPLE_BYTES, end - offset))
