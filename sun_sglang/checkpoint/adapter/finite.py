"""Find a weight that is NaN or infinite, without a tensor library.

With such a weight a prompt's logits are NaN. SGLang samples all requests of a batch in one call, and torch refuses the
whole batch for one row of NaN (`srt/layers/sampler.py`): the scheduler ends, with the requests of all tasks on it. So
the canary of such an adapter would come too late.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, reduce
from operator import and_
from pathlib import Path
from typing import BinaryIO

from sun_sglang.checkpoint.tensor_file import TensorEntry, parse_header, read_header
from sun_sglang.errors import CheckpointError

_CHUNK = 1 << 20


def _table(mask: int) -> bytes:
    """Return, by byte, whether all bits of a mask are 1."""
    return bytes(byte & mask == mask for byte in range(256))


# By type: the number of bytes of a value, and the bits of its exponent in its last byte and in the one before. They are
# all 1 in NaN and in infinity, and in no other value.
_ALL_ONES: Mapping[str, tuple[int, tuple[bytes, ...]]] = {
    "F32": (4, (_table(0x7F), _table(0x80))),
    "BF16": (2, (_table(0x7F), _table(0x80))),
    "F16": (2, (_table(0x7C),)),
}


@lru_cache(maxsize=4096)
def not_finite(path: Path, _size: int, _time: int, _inode: int) -> str:
    """Return the name of a tensor with a value that is NaN or infinite; empty if there is none. Reads every byte.

    Args:
        path: a safetensors file, whose header is right. The result is kept while size, time and inode stay.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file)
            start = 8 + len(header)
            for name, tensor in parse_header(header).items():
                if tensor.dtype in _ALL_ONES and not _is_finite(file, start, tensor):
                    return name
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e})") from e
    return ""


def _is_finite(file: BinaryIO, start: int, tensor: TensorEntry) -> bool:
    width, tables = _ALL_ONES[tensor.dtype]
    file.seek(start + tensor.start)
    left = tensor.end - tensor.start
    while left and (data := file.read(min(left, _CHUNK))):
        left -= len(data)
        # one byte of each value, as 1 or 0
        columns = (data[width - 1 - i :: width].translate(table) for i, table in enumerate(tables))
        found = next(columns)
        if 1 not in found:
            continue
        # the conjunction of all values is one operation on long numbers
        others = (int.from_bytes(column, "little") for column in columns)
        if reduce(and_, others, int.from_bytes(found, "little")):
            return False
    return True
