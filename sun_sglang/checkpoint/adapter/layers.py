"""List the layers that an adapter changes, from the header of its weights. Reads no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sun_sglang.checkpoint.adapter.settings import CONFIG, MERGE, AdapterSettings
from sun_sglang.checkpoint.completeness.stored import StoredTensor, tensors_of
from sun_sglang.contracts.adapter_targets import SUPPORTED_TARGETS
from sun_sglang.errors import CheckpointError
from sun_sglang.strict import listed

WEIGHTS = "adapter_model.safetensors"
_SAVE = "save the adapter with `save_pretrained` of peft"
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# SGLang finds the number of a layer by this pattern alone (`srt/layers/utils/common.py`: `get_layer_id`)
_LAYER = re.compile(r"(?:^|\.)(layers\.(\d+)\.(.+))$")
_OTHER_TOWER = re.compile(r"vision|visual|audio")
_FLOATS = ("F32", "F16", "BF16")


class ChangedLayer(NamedTuple):
    """A linear layer that an adapter changes.

    Attributes:
        module: its name in the model, such as `model.layers.0.self_attn.q_proj`.
        inputs: size of its input.
        outputs: size of its output.
    """

    module: str
    inputs: int
    outputs: int

    @property
    def place(self) -> str:
        """Its name from the number of the block on: `layers.0.self_attn.q_proj`."""
        return place_of(self.module)


def place_of(module: str) -> str:
    """Return the name of a layer from the number of its block on; empty for a layer outside of the blocks."""
    found = _LAYER.search(module)
    return found[1] if found else ""


def block_of(place: str) -> int:
    """Return the number of a layer's block."""
    found = _LAYER.search(place)
    assert found is not None, "a place begins with the number of its block"
    return int(found[2])


def read_layers(directory: Path, settings: AdapterSettings) -> tuple[ChangedLayer, ...]:
    """Return the layers that an adapter changes, sorted by name.

    Args:
        directory: the adapter's directory.
        settings: its settings.

    Raises:
        CheckpointError: the weights are missing, truncated or of another adapter than the settings; or they hold a
            tensor that SGLang ignores or refuses.
    """
    path = directory / WEIGHTS
    _require_one_file(directory)
    sides: dict[str, dict[str, tuple[int, int]]] = {}
    for name, tensor in tensors_of(path).items():
        module, side = _parsed(path, name)
        sides.setdefault(module, {})[side] = _shape(path, name, tensor)
    if not sides:
        raise CheckpointError(f"{path}: holds no tensor; {_SAVE}")
    layers = tuple(_changed(path, module, sides[module], settings.rank) for module in sorted(sides))
    _require_distinct(path, layers)
    _require_named(directory, layers, settings)
    return layers


def _require_one_file(directory: Path) -> None:
    # SGLang leaves out hidden files, such as those that macOS writes beside others
    files = sorted(file.name for file in directory.glob("*.safetensors") if not file.name.startswith("."))
    if WEIGHTS in files and len(files) > 1:
        other = next(file for file in files if file != WEIGHTS)
        raise CheckpointError(f"{directory / other}: SGLang would load it as a part of the adapter; remove it")
    if WEIGHTS not in files:
        pickled = next((file.name for file in directory.glob("adapter_model.bin")), None)
        fix = f"{pickled} holds pickled weights: load the adapter with peft and {_SAVE}" if pickled else _SAVE
        raise CheckpointError(f"{directory / WEIGHTS}: not found; {fix}")


def _parsed(path: Path, name: str) -> tuple[str, str]:
    """Return the layer and the side (`A` or `B`) of a tensor."""
    found = _TENSOR.fullmatch(name)
    if found is None:
        raise CheckpointError(f"{path}: `{name}` {_why_not(name)}")
    module = found["module"]
    if _OTHER_TOWER.search(module) or not place_of(module):
        raise CheckpointError(f"{path}: `{name}` is outside of the blocks of the language model; {MERGE}")
    if ".experts." in module:
        raise CheckpointError(f"{path}: `{name}` changes an expert, and adapters of experts are not supported; {MERGE}")
    last = module.rpartition(".")[2]
    if last not in SUPPORTED_TARGETS:
        known = listed(SUPPORTED_TARGETS)
        raise CheckpointError(f"{path}: `{name}` changes `{last}`, and adapters may change {known}; {MERGE}")
    return module, found["side"]


def _why_not(name: str) -> str:
    if "lora_" not in name:
        return f"is no part of a LoRA update; {MERGE}, or name the directory of an adapter"
    if "lora_embedding_" in name:
        return f"changes an embedding, and adapters of embeddings are not supported; {MERGE}"
    if name.endswith((".lora_A.bias", ".lora_B.bias")):
        return f"is a tuned bias, which SGLang ignores; {MERGE}"
    if "lora_magnitude_vector" in name:
        return f"belongs to DoRA, which SGLang does not have; {MERGE}"
    return f"has another name than PEFT gives it; {_SAVE}"


def _shape(path: Path, name: str, tensor: StoredTensor) -> tuple[int, int]:
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"{path}: `{name}` is stored as {tensor.dtype}, and {listed(_FLOATS)} are served; {_SAVE}"
        )
    if len(tensor.shape) != 2:
        raise CheckpointError(f"{path}: `{name}` has the shape {list(tensor.shape)}, and no matrix has; {_SAVE}")
    return tensor.shape[0], tensor.shape[1]


def _changed(path: Path, module: str, sides: Mapping[str, tuple[int, int]], rank: int) -> ChangedLayer:
    for side in "AB":
        if side not in sides:
            raise CheckpointError(f"{path}: no `lora_{side}` of `{module}`; copy the adapter again")
    (down, inputs), (outputs, up) = sides["A"], sides["B"]
    if not rank == down == up:
        found = down if down != rank else up
        raise CheckpointError(f"{path}: `{module}` has rank {found}, and {CONFIG} has `r: {rank}`; {_SAVE}")
    return ChangedLayer(module, inputs, outputs)


def _require_distinct(path: Path, layers: tuple[ChangedLayer, ...]) -> None:
    """Raise if two names are one layer to SGLang, which reads the number of the block and the end of a name alone."""
    found: dict[str, str] = {}
    for layer in layers:
        other = found.setdefault(layer.place, layer.module)
        if other != layer.module:
            raise CheckpointError(f"{path}: `{other}` and `{layer.module}` are one layer to SGLang; {_SAVE}")


def _require_named(directory: Path, layers: tuple[ChangedLayer, ...], settings: AdapterSettings) -> None:
    """Raise unless the layers with weights are those that the settings name, by the last part of their names."""
    stored = {layer.module.rpartition(".")[2] for layer in layers}
    named = {target.rpartition(".")[2] for target in settings.targets}
    if more := sorted(stored - named):
        raise CheckpointError(
            f"{directory / WEIGHTS}: changes `{more[0]}`, and `target_modules` in {CONFIG} lacks it; {_SAVE}"
        )
    if less := sorted(named - stored):
        raise CheckpointError(
            f"{directory / CONFIG}: target_modules: names `{less[0]}`, of which {WEIGHTS} holds no tensor; remove the "
            "name if the model has no such layer, else copy the adapter again"
        )
