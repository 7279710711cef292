"""Compare the layers that an adapter changes with those of its base. Reads no weights.

SGLang compares neither names nor shapes when it loads an adapter. It does so when the first batch uses the adapter, and
a difference ends the scheduler (`srt/lora/mem_pool.py`: `load_lora_weight_to_buffer`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sun_sglang.checkpoint.adapter.layers import ChangedLayer, block_of, place_of
from sun_sglang.checkpoint.adapter.read import read_changes
from sun_sglang.checkpoint.adapter.settings import MERGE, AdapterSettings
from sun_sglang.checkpoint.completeness.stored import read_stored
from sun_sglang.checkpoint.config_file import layers_of
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.errors import CheckpointError

_ADDED = "added_tokens.json"
_LANGUAGE = re.compile(r"(^|\.)language_model\.")
_OTHER = re.compile(r"vision|visual|audio|\.experts\.")
# the tensors of a quantised layer (compressed-tensors, GPTQ, AWQ)
_PACKED = ("weight_packed", "qweight")
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class BaseLayers:
    """The linear layers in the blocks of a base's language model.

    Attributes:
        directory: the base's directory.
        sizes: sizes of output and input by the layer's place (`layers.0.self_attn.q_proj`); None where the layer is
            quantised and its file does not tell.
        vocabulary: number of tokens.
    """

    directory: Path
    sizes: Mapping[str, tuple[int, int] | None]
    vocabulary: int


def read_base_layers(base: Path) -> BaseLayers:
    """Return the linear layers of a checkpoint.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    config = read_json(base / "config.json")
    text = config.get("text_config", config)
    blocks, vocabulary = layers_of(text, base), text.get("vocab_size")
    if type(vocabulary) is not int:
        raise CheckpointError(f"{base / 'config.json'}: vocab_size: must be a whole number (got {vocabulary!r})")
    stored = read_stored(base)
    # a checkpoint with several parts names the part of the text
    has_parts = any(_LANGUAGE.search(name) for name in stored)
    sizes: dict[str, tuple[int, int] | None] = {}
    for name, tensor in stored.items():
        module, _, kind = name.rpartition(".")
        place = place_of(module)
        if not place or _OTHER.search(module) or (has_parts and not _LANGUAGE.search(name)):
            continue
        if block_of(place) < blocks:
            if kind == "weight" and len(tensor.shape) == 2:
                sizes[place] = (tensor.shape[0], tensor.shape[1]) if tensor.dtype in _FLOATS else None
            elif kind in _PACKED:
                sizes[place] = None
    return BaseLayers(base, sizes, vocabulary)


def require_fits(adapter: Path, base: BaseLayers) -> None:
    """Raise unless SGLang computes with a base and an adapter what PEFT computes.

    Args:
        adapter: directory of the adapter.
        base: the base's layers.

    Raises:
        CheckpointError: the adapter cannot be read; it changes a layer that the base does not have or that has another
            size, lacks a layer that its settings name, or adds tokens; or it changes a part of layers that SGLang
            computes as one. Names the adapter, the layer and the fix.
    """
    settings, layers = read_changes(adapter)
    for layer in layers:
        _require_same_size(adapter, layer, base)
    changed = {layer.place for layer in layers}
    for place in _named(settings, base.sizes):
        if place not in changed:
            problem = f"holds no update of `{place}`, which its `target_modules` name"
            raise CheckpointError(f"{adapter}: {problem} and {base.directory} has; copy the adapter again")
    _require_whole_groups(adapter, changed, base)
    _require_no_tokens(adapter, base)


def _require_same_size(adapter: Path, layer: ChangedLayer, base: BaseLayers) -> None:
    if layer.place not in base.sizes:
        problem = f"changes `{layer.module}`, and {base.directory} has no such layer"
        raise CheckpointError(f"{adapter}: {problem}: it is an adapter of another model; name the pool of its base")
    size = base.sizes[layer.place]
    if size is not None and size != (layer.outputs, layer.inputs):
        raise CheckpointError(
            f"{adapter}: its update of `{layer.module}` has {layer.outputs} x {layer.inputs} values, and that layer of "
            f"{base.directory} has {size[0]} x {size[1]}: it is an adapter of another model; name the pool of its base"
        )


def _named(settings: AdapterSettings, places: Iterable[str]) -> Iterator[str]:
    """Yield the layers of a base that an adapter's settings name, as PEFT finds them."""
    for place in places:
        if settings.layers is not None and block_of(place) not in settings.layers:
            continue
        if _is_one_of(place, settings.targets) and not _is_one_of(place, settings.excluded):
            yield place


def _is_one_of(place: str, names: Iterable[str]) -> bool:
    # a name may also be a whole one: `model.layers.0.self_attn.q_proj`
    return any(place == name or place.endswith(f".{name}") or (place and place_of(name) == place) for name in names)


def _require_whole_groups(adapter: Path, changed: set[str], base: BaseLayers) -> None:
    """Raise if SGLang cannot stack the updates of layers that it computes as one (`srt/lora/lora.py`)."""
    fix = f"train it with both, or {MERGE}"
    for place in changed:
        parent, _, last = place.rpartition(".")

        def has(name: str, places: Iterable[str], parent: str = parent) -> bool:
            return f"{parent}.{name}" in places

        # `normalize_qkv_proj` stacks the update of k where there is one, and those of q and v always
        if last in ("q_proj", "k_proj", "v_proj") and has("q_proj", base.sizes):
            for needed in ("q_proj", "v_proj"):
                if not has(needed, changed):
                    problem = f"changes `{place}` and not `{needed}` beside it, which SGLang computes together"
                    raise CheckpointError(f"{adapter}: {problem}; {fix}")
        # `normalize_gate_up_proj` adds an update of zeros for up, and none for gate
        if last == "up_proj" and has("gate_proj", base.sizes) and not has("gate_proj", changed):
            problem = f"changes `{place}` and not `gate_proj` beside it, which SGLang computes together"
            raise CheckpointError(f"{adapter}: {problem}; {fix}")


def _require_no_tokens(adapter: Path, base: BaseLayers) -> None:
    path = adapter / _ADDED
    if not path.exists():
        return
    for token, number in read_json(path).items():
        if type(number) is int and number >= base.vocabulary:
            raise CheckpointError(
                f"{path}: adds the token {token!r} to the vocabulary of {base.directory}, which SGLang refuses; {MERGE}"
            )
