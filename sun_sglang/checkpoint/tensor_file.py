"""Read headers and single values of safetensors files without a tensor library."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sun_sglang.errors import CheckpointError

# the dtypes of a scale; bfloat16 is the upper half of a float32
_UNPACK: Mapping[str, Callable[[bytes], float]] = {
    "F64": lambda data: float(struct.unpack("<d", data)[0]),
    "F32": lambda data: float(struct.unpack("<f", data)[0]),
    "F16": lambda data: float(struct.unpack("<e", data)[0]),
    "BF16": lambda data: float(struct.unpack("<f", b"\0\0" + data)[0]),
}

# the limit of the safetensors library
_MOST_HEADER = 100_000_000


class TensorEntry(NamedTuple):
    """A tensor as a header describes it.

    Attributes:
        dtype: its type.
        shape: its shape.
        start: offset of its first byte, after the header.
        end: offset of the byte after it.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


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
    if len(start) < 8 or length > min(os.fstat(file.fileno()).st_size - 8, _MOST_HEADER):
        raise ValueError("it does not begin with a safetensors header")
    return file.read(length)


def parse_header(header: bytes) -> dict[str, TensorEntry]:
    """Return the tensors that a header describes, by name.

    Raises:
        ValueError: the header is no JSON object, or an entry has another form; the message has its name.
    """
    try:
        content = json.loads(header)
    except RecursionError as e:
        raise ValueError("its header is nested too deeply") from e
    if not isinstance(content, dict):
        raise ValueError("its header is not a JSON object")
    return {name: _entry(name, entry) for name, entry in content.items() if name != "__metadata__"}


def _entry(name: str, entry: Any) -> TensorEntry:
    if isinstance(entry, dict):
        dtype, shape, offsets = entry.get("dtype"), _numbers(entry.get("shape")), _numbers(entry.get("data_offsets"))
        if isinstance(dtype, str) and shape is not None and offsets is not None and len(offsets) == 2:
            return TensorEntry(dtype, shape, *offsets)
    raise ValueError(f"its header describes `{name}` without a type, a shape and two offsets")


def _numbers(value: Any) -> tuple[int, ...] | None:
    """Return a list of whole numbers; None for another value."""
    return tuple(value) if isinstance(value, list) and all(type(number) is int for number in value) else None


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
                for name, tensor in parse_header(header).items():
                    if wanted(name):
                        file.seek(8 + len(header) + tensor.start)
                        yield name, _scalar(tensor.dtype, file.read(tensor.end - tensor.start))
        except (OSError, ValueError, struct.error) as e:
            raise CheckpointError(f"{path}: cannot be read ({e})") from e


def _scalar(dtype: str, data: bytes) -> float:
    unpack = _UNPACK.get(dtype)
    if unpack is None:
        raise ValueError(f"a scale of type {dtype}")
    return unpack(data)
