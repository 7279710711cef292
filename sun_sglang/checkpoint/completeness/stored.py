"""List the tensors of a checkpoint from its safetensors headers and its index. Reads no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.tensor_file import TensorEntry, parse_header, read_header, safetensors_of
from sun_sglang.errors import CheckpointError

INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
_COPY_AGAIN = "copy or download it again"
# bytes of one value; types of less than a byte are left out
_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


class StoredTensor(NamedTuple):
    """A tensor of a checkpoint.

    Attributes:
        shape: its shape.
        file: name of its file.
        dtype: its type, as safetensors names it.
    """

    shape: tuple[int, ...]
    file: str
    dtype: str = "F32"


def read_stored(model: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by name: of the files that its index names, else of all its files.

    Raises:
        CheckpointError: a file is missing, is shorter or longer than its header says, or cannot be read; or a file
            lacks a tensor for which the index names it.
    """
    index = _weight_map(model)
    names = sorted(set(index.values())) if index is not None else _files_without_index(model)
    found: dict[str, StoredTensor] = {}
    for name in names:
        path = model / name
        if not path.exists():
            shards = f"one of {len(names)} files that {INDEX} names" if index is not None else "one of its shards"
            raise CheckpointError(f"{path}: not found ({shards}); {_COPY_AGAIN}")
        found |= tensors_of(path)
    for name, file in (index or {}).items():
        if name not in found:
            raise CheckpointError(f"{model / INDEX}: `{name}` is not in {file}; {_COPY_AGAIN}")
    if not found:
        raise CheckpointError(f"{model}: its safetensors files hold no tensor; {_COPY_AGAIN}")
    return found


def missing_shards(model: Path) -> list[str]:
    """Return the names of the files that the index names and the directory lacks; empty without an index.

    Raises:
        CheckpointError: the index cannot be read.
    """
    return [name for name in sorted(set((_weight_map(model) or {}).values())) if not (model / name).exists()]


def _weight_map(model: Path) -> dict[str, str] | None:
    """Return the file of each tensor as the index names it; None without an index."""
    path = model / INDEX
    if not path.exists():
        return None
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise CheckpointError(f"{path}: `weight_map` is not an object of file names; {_COPY_AGAIN}")
    outside = next((file for file in names.values() if Path(file).name != file), None)
    if outside is not None:
        raise CheckpointError(f"{path}: `{outside}` is not the name of a file in this directory")
    return names


def _files_without_index(model: Path) -> list[str]:
    """Return the names of all files, and of the shards that the numbers in these names require."""
    present = [path.name for path in safetensors_of(model)]
    # Mistral ships its weights twice; SGLang and transformers read the others
    plain = [name for name in present if not name.startswith("consolidated")]
    names = dict.fromkeys(plain or present)
    for name in list(names):
        shard = _SHARD.fullmatch(name)
        if shard is not None:
            stem, number, count = shard.groups()
            width = len(number)
            # a bound on what a file name can ask for
            for i in range(1, min(int(count), 10_000) + 1):
                names[f"{stem}-{i:0{width}}-of-{count}.safetensors"] = None
    return list(names)


def tensors_of(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file by name.

    Raises:
        CheckpointError: the file is shorter or longer than its header says, or cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            text = read_header(file)
        tensors = parse_header(text)
        end = _end_of_all(tensors)
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e}); {_COPY_AGAIN}") from e
    whole = 8 + len(text) + end
    if size != whole:
        raise CheckpointError(f"{path}: has {size:,} bytes, and its header describes {whole:,}; {_COPY_AGAIN}")
    return {name: StoredTensor(tensor.shape, path.name, tensor.dtype) for name, tensor in tensors.items()}


def _end_of_all(tensors: Mapping[str, TensorEntry]) -> int:
    """Return the offset of the byte after all tensors; 0 for none.

    Raises:
        ValueError: a tensor does not begin where the one before it ends: the safetensors library refuses such a file.
    """
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            raise ValueError(f"`{name}` begins at byte {tensor.start}, and the tensor before it ends at {end}")
        end = _end(name, tensor)
    return end


def _end(name: str, tensor: TensorEntry) -> int:
    """Return the offset of the byte after a tensor.

    Raises:
        ValueError: its offsets do not fit its shape and type.
    """
    start, end, width = tensor.start, tensor.end, _BYTES.get(tensor.dtype)
    if not 0 <= start <= end or (width is not None and end - start != width * prod(tensor.shape)):
        raise ValueError(f"`{name}` has {end - start} bytes for {list(tensor.shape)} of {tensor.dtype}")
    return end
