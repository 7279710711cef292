"""Read `adapter_config.json`, and refuse the settings with which SGLang would compute otherwise than PEFT.

SGLang reads `r`, `lora_alpha`, `target_modules` and `use_dora`, and no other setting (`srt/lora/lora_config.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.errors import CheckpointError

CONFIG = "adapter_config.json"
MERGE = "merge it into its base (`merge_and_unload` of peft) and serve the result as the model of a prefill pool"
_SAVE = "save the adapter with `save_pretrained` of peft"
_MOST_RANK = 65536
_MOST_ALPHA = 1e6
# settings of PEFT 0.21 that change nothing when a saved adapter is applied
_HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision"),
        *("task_type", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
        *("lora_ga_config", "velora_config", "qalora_group_size", "runtime_config", "layers_pattern"),
        *("ensure_weight_tying",),
    }
)
_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "init_lora_weights"}
)
# ways to start that change only the adapter; all others subtract the adapter's first value from the base's weights
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class AdapterSettings:
    """The settings of an adapter that serving needs.

    Attributes:
        rank: rank of every layer.
        scaling: factor of the update: `lora_alpha / r`.
        targets: names, or ends of names, of the layers that it changes.
        excluded: names, or ends of names, of layers that it leaves alone.
        layers: numbers of the blocks whose layers it changes; None for all.
    """

    rank: int
    scaling: float
    targets: tuple[str, ...]
    excluded: tuple[str, ...]
    layers: frozenset[int] | None


def read_settings(directory: Path) -> AdapterSettings:
    """Return the settings of the adapter in a directory.

    Raises:
        CheckpointError: `adapter_config.json` is missing, unreadable or of no LoRA adapter, or it has a setting that
            SGLang ignores or refuses; names the setting and the fix.
    """
    path = directory / CONFIG
    config = read_json(path)
    kind = config.get("peft_type")
    if str(kind).upper() != "LORA":
        raise _wrong(path, "peft_type", f"is {kind!r}, and SGLang serves LORA only", MERGE)
    rank = config.get("r")
    # SGLang takes slices of this length: 8.0 would end its scheduler
    if type(rank) is not int or not 1 <= rank <= _MOST_RANK:
        raise _wrong(path, "r", f"must be a whole number from 1 to {_MOST_RANK} (got {rank!r})", _SAVE)
    alpha = _number(path, config, "lora_alpha")
    if not 0 < abs(alpha) <= _MOST_ALPHA:
        # 0 has no effect, and products with more are infinite, which ends a worker that samples them
        raise _wrong(path, "lora_alpha", f"must be a number up to {_MOST_ALPHA:g}, and not 0 (got {alpha!r})", _SAVE)
    _require_served(path, config, rank, alpha)
    layers = config.get("layers_to_transform")
    return AdapterSettings(
        rank=rank,
        scaling=alpha / rank,
        targets=_targets(path, config),
        excluded=_names(path, config, "exclude_modules"),
        layers=None if layers is None else _layers(path, layers),
    )


def _require_served(path: Path, config: Mapping[str, Any], rank: int, alpha: float) -> None:
    for name, (is_served, problem, fix) in _refusals(rank, alpha).items():
        if name in config and not is_served(config[name]):
            raise _wrong(path, name, problem, fix)
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        problem = f"is {start!r}: this start changed the base's weights too, and SGLang serves them unchanged"
        fix = "convert it to plain LoRA (`path_initial_model_for_weight_conversion` of `save_pretrained`), or " + MERGE
        raise _wrong(path, "init_lora_weights", problem, fix)
    known = _HARMLESS | _READ | set(_refusals(rank, alpha))
    for name, value in config.items():
        if name not in known and value not in (None, False, [], {}, ""):
            raise _wrong(path, name, f"is {value!r}, a setting that SGLang ignores", MERGE)


def _refusals(rank: int, alpha: float) -> dict[str, tuple[Callable[[Any], bool], str, str]]:
    """Return, by setting, whether a value is served, and the problem and the fix where it is not."""
    root = f"write `use_rslora: false` and `lora_alpha: {alpha * math.sqrt(rank):g}`, which is the same"

    def is_off(value: Any) -> bool:
        return not value

    def only(number: float) -> Callable[[Any], bool]:
        return lambda value: not value or (isinstance(value, dict) and all(v == number for v in value.values()))

    return {
        "use_dora": (is_off, "SGLang has no DoRA", MERGE),
        "use_rslora": (is_off, "SGLang scales by lora_alpha / r, and not by lora_alpha / sqrt(r)", root),
        "rank_pattern": (only(rank), "SGLang has one rank for all layers of an adapter", MERGE),
        "alpha_pattern": (only(alpha), "SGLang has one scale for all layers of an adapter", MERGE),
        "bias": (lambda value: value in (None, "none"), "SGLang ignores tuned biases", MERGE),
        "lora_bias": (is_off, "SGLang ignores tuned biases", MERGE),
        "modules_to_save": (is_off, "SGLang ignores modules that were tuned as a whole", MERGE),
        "trainable_token_indices": (is_off, "SGLang ignores tuned tokens", MERGE),
        "target_parameters": (is_off, "SGLang ignores LoRA on parameters of other modules than linear layers", MERGE),
        "fan_in_fan_out": (is_off, "SGLang does not serve layers of this kind", MERGE),
        "layer_replication": (is_off, "SGLang serves the base with its own layers", MERGE),
        "alora_invocation_tokens": (is_off, "SGLang applies an adapter to the whole prompt", "train plain LoRA"),
    }


def _targets(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    given = config.get("target_modules")
    if isinstance(given, str):
        problem = f"is the pattern {given!r}, and SGLang takes a list of names"
        raise _wrong(path, "target_modules", problem, 'write the names, such as ["q_proj", "v_proj"]')
    names = _names(path, config, "target_modules")
    if not names:
        raise _wrong(path, "target_modules", "names no layer", 'write the names, such as ["q_proj", "v_proj"]')
    return names


def _names(path: Path, config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    given = config.get(key) or []
    if not isinstance(given, list) or not all(isinstance(name, str) and name for name in given):
        raise _wrong(path, key, f"must be a list of names (got {given!r})", "")
    return tuple(given)


def _layers(path: Path, given: Any) -> frozenset[int]:
    numbers = given if isinstance(given, list) else [given]
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise _wrong(path, "layers_to_transform", f"must be numbers of layers (got {given!r})", "")
    return frozenset(numbers)


def _number(path: Path, config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return value
    except OverflowError:
        # a whole number that is over every float
        pass
    raise _wrong(path, key, f"must be a number (got {value!r})", _SAVE)


def _wrong(path: Path, key: str, problem: str, fix: str) -> CheckpointError:
    return CheckpointError(f"{path}: {key}: {problem}" + (f"; {fix}" if fix else ""))
