"""Compare a module with the model whose place it takes on a worker. Reads no weights.

A worker builds the layers of the model that it started with, and a change replaces their values alone. A module with
another configuration would be computed with the settings of that model, and one that lacks a tensor would keep the
values of the module before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sun_sglang.checkpoint.completeness.stored import StoredTensor, read_stored
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.checkpoint.module.read import require_files
from sun_sglang.errors import CheckpointError

_OTHER: Final = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"),
    # the decode worker ends answers
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Keys of `config.json` that change no tensor and no operation of a prefill worker."""

_ONE: Final = ("dp_size", "attn_dp_size", "attn_cp_size", "pp_size", "nnodes", "tokenizer_worker_num")
_NONE: Final = (
    "quantization",
    "elastic_ep_backend",
    "speculative_algorithm",
    "enable_multi_layer_eagle",
    "model_impl",
    "cpu_offload_gb",
)
_TIED = "lm_head.weight"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_QUANTIZATION = "quantization_config"


LOADED_TYPES: Final[Mapping[str, str]] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The types of values that a worker loads: names of torch by those of safetensors."""

_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})


def flag_against_turns(flags: Mapping[str, Any]) -> str | None:
    """Return the name of an SGLang flag with which a worker cannot change its weights between batches; None for none.

    Several schedulers of one worker would have to change at the same time, a draft model would stay behind, and
    quantised layers are packed when they are loaded.
    """
    several = next((name for name in _ONE if (flags.get(name) or 1) != 1), None)
    used = next((name for name in _NONE if flags.get(name) not in (None, 0, "auto", False)), None)
    load = "load_format" if flags.get("load_format") not in (None, "auto", "safetensors") else None
    cached = "weight_cache_mode" if flags.get("weight_cache_mode") not in (None, "off") else None
    return several or used or load or cached


def require_module_fits(module: Path, own: Path, flags: Mapping[str, Any]) -> None:
    """Raise unless a module can take the place of a worker's model.

    Args:
        module: directory of the module.
        own: directory of the model with which the worker started.
        flags: the worker's SGLang flags.

    Raises:
        CheckpointError: a file cannot be read; the weights are quantised; or the two differ in the configuration, in
            the name, the shape or the type of a tensor, or in the tokenizer or the chat template where the module has
            one. Names the first difference.
    """
    require_files(module)
    configs = {path: read_json(path / "config.json") for path in (module, own)}
    for path, config in configs.items():
        if config.get(_QUANTIZATION):
            raise CheckpointError(f"{path}: its weights are quantised, and only full-precision modules take turns")
    _compare_configs(configs[module], configs[own], module, own)
    tied = bool(configs[own].get("tie_word_embeddings"))
    one, other = read_stored(module), read_stored(own)
    _compare_tensors(_shapes(one, tied=tied), _shapes(other, tied=tied), module, own)
    _compare_types(one, other, module, own)
    if any((module / name).exists() for name in _TOKENIZERS):
        _compare_prompts(module, own, flags)


def require_equal_model(module: Path, model: str) -> None:
    """Raise unless a module with the weights of another model is that model, and may be served as it.

    Args:
        module: directory of the module.
        model: the other model, which is not compared where it is not on this machine.

    Raises:
        CheckpointError: see `require_module_fits`.
    """
    other = find_checkpoint(model)
    if other is not None and other != module:
        require_module_fits(module, other, {})


def _compare_prompts(module: Path, own: Path, flags: Mapping[str, Any]) -> None:
    """Raise if the module was tuned with another tokenizer or chat template: the worker serves it with its own."""
    one, other = read_identity(module, flags), read_identity(own, flags)
    for field in ("tokenizer", "chat_template"):
        if getattr(one, field) != getattr(other, field):
            raise CheckpointError(
                f"{module}: holds another {field.replace('_', ' ')} than {own}, with which its prompts would be made"
            )


def _compare_configs(one: Mapping[str, Any], other: Mapping[str, Any], module: Path, own: Path) -> None:
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if a != b and key not in _OTHER:
            raise CheckpointError(
                f"{module / 'config.json'}: `{key}` is {a!r}, and {own} has {b!r}; modules that take turns are tuned "
                "from one base"
            )


def _compare_tensors(
    one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]], module: Path, own: Path
) -> None:
    for name in sorted({*one, *other}):
        if name not in one:
            raise CheckpointError(f"{module}: lacks the tensor `{name}`, which {own} has; save the whole module")
        if name not in other:
            raise CheckpointError(f"{module}: has the tensor `{name}`, which {own} lacks")
        if one[name] != other[name]:
            raise CheckpointError(f"{module}: `{name}` is {list(one[name])}, and {own} has {list(other[name])}")


def _compare_types(one: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor], module: Path, own: Path) -> None:
    """Raise if a worker cannot load a tensor, or would take quantised values for those of the model."""
    for name, tensor in sorted(one.items()):
        theirs = other.get(name, tensor).dtype
        if tensor.dtype not in LOADED_TYPES or (tensor.dtype != theirs and not {tensor.dtype, theirs} <= _FLOATS):
            raise CheckpointError(
                f"{module}: `{name}` has values of type {tensor.dtype}, and {theirs} in {own}; save the module in "
                "float32, float16 or bfloat16"
            )


def _shapes(stored: Mapping[str, StoredTensor], *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor. A tied output layer may be stored or not: it is the embedding."""
    return {name: tensor.shape for name, tensor in stored.items() if not (tied and name == _TIED)}
