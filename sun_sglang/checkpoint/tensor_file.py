"""Safetensors files without a tensor library: their headers, and single values."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sun_sglang.errors import CheckpointError

# dtypes in which a scale is stored; bfloat16 is the upper half of a float32
_UNPACK: Mapping[str, Callable[[bytes], float]] = {
    "F64": lambda data: float(struct.unpack("<d", data)[0]),
    "F32": lambda data: float(struct.unpack("<f", data)[0]),
    "F16": lambda data: float(struct.unpack("<e", data)[0]),
    "BF16": lambda data: float(struct.unpack("<f", b"\0\0" + data)[0]),
}


def read_header(file: BinaryIO) -> bytes:
    """Return the header of a safetensors file; its tensors begin 8 bytes after as many bytes.

    Raises:
        ValueError: the file does not begin with a header.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > os.fstat(file.fileno()).st_size - 8:
        raise ValueError("it does not begin with a safetensors header")
    return file.read(length)


def read_scalars(model: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, float]]:
    """Yield the names and values of a checkpoint's tensors of one value.

    Args:
        model: directory of the checkpoint.
        wanted: tells by its name whether a tensor is asked for.

    Raises:
        CheckpointError: a file cannot be read, or such a tensor is no single floating-point number.
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
