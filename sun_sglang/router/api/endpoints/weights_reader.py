"""Read the own weights of a task from the directory that an admin names. I/O: files, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.errors import CheckpointError
from sun_sglang.router.errors import ApiError

T = TypeVar("T")


class WeightsReader:
    """Reads adapters and modules.

    Args:
        read_adapter: reads an adapter's directory; runs in a thread.
        read_module: reads a module's directory; runs in a thread.
        require_equal: raises unless a module, by its directory, is a model with equal weights; runs in a thread.
    """

    def __init__(
        self,
        read_adapter: Callable[[Path], AdapterRef],
        read_module: Callable[[Path], ModuleRef],
        require_equal: Callable[[Path, str], None],
    ) -> None:
        self._read_adapter = read_adapter
        self._read_module = read_module
        self._require_equal = require_equal

    async def adapter(self, directory: str) -> AdapterRef:
        """Return the adapter in a directory.

        Raises:
            ApiError: 400, with the reason why it is none.
        """
        return await _read(self._read_adapter, directory, "adapter")

    async def module(self, directory: str) -> ModuleRef:
        """Return the module in a directory.

        Raises:
            ApiError: 400, with the reason why it is none.
        """
        return await _read(self._read_module, directory, "model")

    async def require_equal(self, module: ModuleRef, model: str) -> None:
        """Raise unless a module may be served as a model with equal weights.

        Raises:
            ApiError: 400, they have another configuration.
        """
        await _read(lambda directory: self._require_equal(directory, model), module.directory, "model")


async def _read(read: Callable[[Path], T], directory: str, field: str) -> T:
    try:
        return await asyncio.to_thread(read, Path(directory))
    except CheckpointError as e:
        raise ApiError(400, str(e), param=field, code=f"{field}_refused") from e
