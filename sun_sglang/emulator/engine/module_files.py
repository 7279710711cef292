"""Check the directories of modules as an SGLang worker does, and take any name where there is no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.module.fit import require_module_fits
from sun_sglang.checkpoint.module.read import module_size
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import ModuleRequest
from sun_sglang.emulator.identity import emulated_revision
from sun_sglang.errors import CheckpointError


class ModuleFiles:
    """Reads modules for one worker.

    Args:
        model: directory of the worker's checkpoint; None where there is none.
        size: bytes of a module that is not a checkpoint.
        flags: the worker's SGLang flags.
    """

    def __init__(self, model: Path | None, size: int, flags: Mapping[str, Any]) -> None:
        self._model = model
        self._size = size
        self._flags = flags

    def own_size(self) -> int:
        """Return the bytes of the weights with which the worker started.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        return self._size if self._model is None else module_size(self._model)

    def verify(self, wanted: ModuleRequest) -> int:
        """Return the bytes of a module's weights, after a check that they have the wanted revision and fit the worker.

        Raises:
            CheckpointError: they have another revision, have other shapes, or cannot be read.
        """
        directory = Path(wanted.directory)
        is_checkpoint = directory.is_dir()
        found = weights_revision(directory) if is_checkpoint else emulated_revision(wanted.directory)
        if found != wanted.revision:
            raise CheckpointError(f"{directory}: its weights have the revision {found}, and not {wanted.revision}")
        if not is_checkpoint:
            return self._size
        if self._model is not None:
            require_module_fits(directory, self._model, self._flags)
        return module_size(directory)
