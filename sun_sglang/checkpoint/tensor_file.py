"""Read headers and single values of safetensors files without a tensor library."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sun_sglang.errors import CheckpointError

# the dtypes of a scale; bfloat16 is the upper half of a float32
_UNPACK: Mapping[str, Callable[[bytes], float]] = {
    "F64": lambda data: float(struct.unpack("<d", data)[0]),
    "F32": lambda data: float(struct.unpack("<f", data)[0]),
    "F16": lambda data: float(struct.unpack("<e", data)[0]),
    "BF16": lambda data: float(struct.unpack("<f", b"\0\0" + data)[0]),
}


def safetensors_of(model: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, sorted by name.

    Raises:
        CheckpointError: there is none.
    """
    files = sorted(model.glob("*.safetensors"))
    if files:
        return files
    pickled = next((path.name for suffix in ("bin", "pth", "pt") for path in sorted(model.glob(f"*.{suffix}"))), None)
    fix = "save the model with `save_pretrained`"
    if pickled is not None:
        fix = f"{pickled} holds pickled weights: load the model with transformers and {fix}"
    raise CheckpointError(f"{model}: no *.safetensors; {fix}")


def read_header(file: BinaryIO) -> bytes:
    """Return the header of a safetensors file. The tensors begin at 8 bytes plus the length of the header.

    Raises:
        ValueError: the file does not begin with a header.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > os.fstat(file.fileno()).st_size - 8:
        raise ValueError("it does not begin with a safetensors header")
    return file.read(length)


def read_scalars(model: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, float]]:
    """Yield the name and value of each wanted tensor of a checkpoint; such a tensor has one value.

    Args:
        model: directory of the checkpoint.
        wanted: returns whether the tensor of a name is wanted.

    Raises:
        CheckpointError: a file cannot be read, or a wanted tensor is no single floating-point number.
    """
    for path in sorted(model.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = read_header(file)
                for name, tensor in json.loads(header).items():
                    if name != "__metadata__" and wanted(name):
                        start, end = tensor["data_offsets"]
                        file.seek(8 + len(header) + start)
                        yield name, _scalar(tensor, file.read(end - start))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as e:
            raise CheckpointError(f"{path}: cannot be read ({e})") from e


def _scalar(tensor: Mapping[str, Any], data: bytes) -> float:
    unpack = _UNPACK.get(tensor["dtype"])
    if unpack is None:
        raise ValueError(f"a scale of type {tensor['dtype']}")
    return unpack(data)
