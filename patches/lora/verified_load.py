"""Refuse to load a LoRA adapter whose content is not the one that its name states, or that does not fit the base.

The router names adapters by their content (`contracts/adapter.py`), so one name is one set of weights: in the worker's
KV cache, in its slots and in answers. SGLang loads any directory under any name, and loads it again from the same path
after an eviction from host memory, whatever the directory holds then (`TokenizerManager._resolve_lora_path`). It also
compares no shapes: an adapter of another base ends the scheduler at the first batch.

The check runs in the HTTP process, in a thread: the scheduler goes on with its batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.adapter.base_fit import BaseLayers, read_base_layers, require_fits
from sun_sglang.checkpoint.adapter.read import FileStates, file_states, read_adapter
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.contracts.adapter import NAME_PREFIX
from sun_sglang.errors import CheckpointError
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_LOG = logging.getLogger(__name__)


async def load_verified(load: Callable[..., Awaitable[Any]], manager: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Load an adapter; one with a name of the router's only if its directory has that content before and afterwards."""
    from sglang.srt.managers.io_struct import LoadLoRAAdapterReqOutput, UnloadLoRAAdapterReqInput

    if not obj.lora_name.startswith(NAME_PREFIX):
        return await load(manager, obj, *args, **kwargs)
    model = find_checkpoint(manager.model_path, manager.server_args.revision)
    directory = Path(obj.lora_path)
    try:
        states = await asyncio.to_thread(require_content, obj.lora_name, directory, model)
    except CheckpointError as e:
        return LoadLoRAAdapterReqOutput(success=False, error_message=str(e))
    result = await load(manager, obj, *args, **kwargs)
    if not result.success or await asyncio.to_thread(_is_unchanged, directory, states):
        return result
    await manager.unload_lora_adapter(UnloadLoRAAdapterReqInput(lora_name=obj.lora_name))
    message = (
        f"{directory}: changed while it was loaded as {obj.lora_name}; load it again under the name of its content"
    )
    return LoadLoRAAdapterReqOutput(success=False, error_message=message)


def require_content(name: str, directory: Path, model: Path | None) -> FileStates:
    """Return the state of an adapter's files, which have the content that its name states, and fit the base.

    Args:
        name: the adapter's name.
        directory: its directory.
        model: directory of the base; None where it is not known.

    Raises:
        CheckpointError: the adapter cannot be read, has another content, or does not fit the base.
    """
    states = file_states(directory) if directory.is_dir() else ()
    found = read_adapter(directory).name
    if found != name:
        raise CheckpointError(f"{directory}: its content is {found}, and it was to be loaded as {name}")
    base = _base_layers(model) if model is not None else None
    if base is not None and base.sizes:
        require_fits(directory, base)
    return states


@lru_cache(maxsize=2)
def _base_layers(model: Path) -> BaseLayers | None:
    """Return the layers of the served base; None where its files do not tell them."""
    try:
        return read_base_layers(model)
    except CheckpointError as e:
        _LOG.warning("adapters are not compared with the layers of the base: %s", e)
        return None


def _is_unchanged(directory: Path, states: FileStates) -> bool:
    try:
        return file_states(directory) == states
    except CheckpointError:
        return False


PATCH = Patch(
    name="verified_load",
    target="sglang.srt.managers.tokenizer_manager.TokenizerManager.load_lora_adapter",
    parameters=(("self", "obj", "_"),),
    kind="around",
    hook=load_verified,
    why="SGLang loads any content under any name, and an adapter of another base ends its scheduler",
    versions=on("loads an adapter of the router only with the content that its name states"),
    removable_when="when SGLang takes a digest with an adapter, checks it at every load, and compares shapes then",
)
