"""The tensors of a module's copy in shared memory, mapped and not read.

The processes of all workers map the same memory. With a GPU the mapping is registered with CUDA, so that a copy to the
GPU runs at the speed of the bus and not through a buffer of the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.completeness.stored import read_stored
from sun_sglang.checkpoint.module.fit import LOADED_TYPES
from sun_sglang.checkpoint.tensor_file import parse_header, read_header

_LOG = logging.getLogger(__name__)


class MappedModule:
    """The copy of one module.

    Args:
        directory: the copy. It may be removed while it is mapped; its memory is then freed by `close`.
        pinned: register the memory with CUDA.

    Raises:
        CheckpointError: the copy is not whole.
        OSError: a file cannot be mapped.
    """

    def __init__(self, directory: Path, *, pinned: bool) -> None:
        import torch

        self.directory = directory
        self._storages: dict[str, Any] = {}
        self._registered: list[Any] = []
        self._tensors: list[tuple[str, Any]] = []
        entries: dict[str, Any] = {}
        for name, stored in read_stored(directory).items():
            if stored.file not in self._storages:
                path = directory / stored.file
                self._storages[stored.file] = torch.UntypedStorage.from_file(str(path), True, path.stat().st_size)
                with path.open("rb") as file:
                    header = read_header(file)
                entries[stored.file] = (8 + len(header), parse_header(header))
            start, tensors = entries[stored.file]
            entry = tensors[name]
            # a slice has an offset of its own, so that the values need no alignment in the file
            part = self._storages[stored.file][start + entry.start : start + entry.end]
            values = torch.asarray(part, dtype=torch.uint8).view(getattr(torch, LOADED_TYPES[entry.dtype]))
            self._tensors.append((name, values.reshape(entry.shape)))
        if pinned:
            self._register()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._tensors)

    def close(self) -> None:
        """Give the memory up."""
        import torch

        for storage in self._registered:
            torch.cuda.cudart().cudaHostUnregister(storage.data_ptr())  # type: ignore[no-untyped-call]  # in torch
        self._registered, self._tensors, self._storages = [], [], {}

    def _register(self) -> None:
        import torch

        for storage in self._storages.values():
            error = torch.cuda.cudart().cudaHostRegister(storage.data_ptr(), storage.nbytes(), 0)  # type: ignore[no-untyped-call]  # in torch
            if int(error) == 0:
                self._registered.append(storage)
            else:
                _LOG.warning("%s is not pinned (CUDA error %s): changes to it are slower", self.directory, int(error))
