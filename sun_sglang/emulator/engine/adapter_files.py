"""Read the directories of LoRA adapters as SGLang and the hooks on it do, with their messages."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from sun_sglang.checkpoint.adapter.base_fit import BaseLayers, read_base_layers, require_fits
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.errors import CheckpointError


class AdapterRefusedError(Exception):
    """A load, an unload or a request that is refused; the text is the worker's message."""


class AdapterFiles:
    """Reads adapters for one worker.

    Args:
        model: directory of the worker's checkpoint; None where there is none.
    """

    def __init__(self, model: Path | None) -> None:
        self._model = model

    def verify(self, name: str, directory: Path) -> None:
        """Check that an adapter has the content that its name states, and fits the base.

        After the hook on SGLang's load (`patches/lora/verified_load.py`).

        Raises:
            AdapterRefusedError: it cannot be read, has another content, or does not fit.
        """
        try:
            found = read_adapter(directory).name
            if found != name:
                raise AdapterRefusedError(f"{directory}: its content is {found}, and it was to be loaded as {name}")
            if self._base is not None:
                require_fits(directory, self._base)
        except CheckpointError as e:
            raise AdapterRefusedError(str(e)) from e

    def read(self, directory: Path) -> AdapterRef:
        """Return the adapter in a directory, or refuse it in SGLang's words where SGLang reads it.

        Raises:
            AdapterRefusedError: it cannot be read.
        """
        if not directory.is_dir():
            # SGLang takes it for a name on the Hugging Face hub
            raise AdapterRefusedError(
                f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{directory}'. Use `repo_type` "
                "argument if needed."
            )
        config = directory / "adapter_config.json"
        if not config.is_file():
            raise AdapterRefusedError(f"[Errno 2] No such file or directory: '{config}'")
        try:
            return read_adapter(directory)
        except CheckpointError as e:
            raise AdapterRefusedError(str(e)) from e

    @cached_property
    def _base(self) -> BaseLayers | None:
        return None if self._model is None else read_base_layers(self._model)
