"""The directory in which a checkpoint is made before it gets its name.

It is a hidden sibling of the output, on the same disk, so that one rename ends the work. A lock on it ends with the
process: a second quantization to the same output is refused, and one after a kill removes what the kill left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sun_sglang.errors import QuantizeError

_MARK = "sun-quantize"


def workplace_of(output: Path) -> Path:
    """Return the path of the directory in which `output` is made."""
    return output.with_name(f".{output.name}.quantizing")


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """Hold an empty directory beside `output`, and remove it at the end.

    Raises:
        QuantizeError: another process holds it, or something else has its name.
    """
    place = workplace_of(output)
    try:
        place.mkdir(exist_ok=True)
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise QuantizeError(f"--output: {place}: cannot be written ({e.strerror or e})") from e
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise QuantizeError(f"--output: another process is writing {output}; wait for it") from e
        _clear(place)
        (place / _MARK).touch()
        try:
            yield place
        finally:
            shutil.rmtree(place)
    finally:
        os.close(lock)


def _clear(place: Path) -> None:
    """Empty a directory that a killed quantization left.

    Raises:
        QuantizeError: it holds something else.
    """
    if any(place.iterdir()) and not (place / _MARK).exists():
        raise QuantizeError(f"{place}: exists, and is not of sun quantize; remove it, or give another --output")
    for path in place.iterdir():
        # the mark last: a kill now leaves a directory that the next run knows
        if path.name != _MARK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
