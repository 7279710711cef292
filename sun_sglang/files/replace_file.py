"""Replace a file so that a kill or a full disk leaves either the old one or the new one, whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

PARTIAL_SUFFIX = ".new"


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name and to the disk, then give it its name.

    Args:
        file: the file.
        write: writes the content to a path.
    """
    partial = file.with_name(file.name + PARTIAL_SUFFIX)
    write(partial)
    sync_file(partial)
    partial.replace(file)
    sync_directory(file.parent)


def sync_file(file: Path) -> None:
    """Write a file's content to the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(directory: Path) -> None:
    """Write the names of a directory's files to the disk, so that files which replace others do so in their order."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
