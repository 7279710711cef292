"""The storage format of KV: its dtype, the flag that SGLang compares, and the scales of 8-bit KV.

SGLang's decode worker compares the resolved `--kv-cache-dtype` strings of both sides and ends if they differ, even
if both select one dtype: `bf16` is not `auto`. It compares neither the dtype that `auto` selects nor the scales
(`disaggregation/common/conn.py`), although KV that one side has scaled is wrong for the other side.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.tensor_file import read_scalars
from sun_sglang.errors import CheckpointError
from sun_sglang.strict import first_invalid

# values of SGLang's flag that store KV as the model computes it, without scales
UNSCALED = ("auto", "bf16", "bfloat16")
UNIT_SCALES = "1.0"
_DTYPE_NAMES = {"half": "float16", "float": "float32", "bf16": "bfloat16"}
# the quantizations whose attention layers take scales (`layers/quantization`)
_SCALED_BY = ("fp8", "mxfp8", "quark")
_NAMED_ALGORITHM = ("fp8", "mxfp8", "petit")
# The name of a scale that SGLang loads: its layer, and whether it scales keys or values (`maybe_remap_kv_scale_name` in
# `model_loader/weight_utils.py`). `kv_scale` is the scale of both, and SGLang loads it as the scale of keys.
_SCALE = re.compile(
    r"layers\.(\d+)\.[^.]+\.(?:(k)v?_scale|(v)_scale|(k)_proj\.k_scale|(v)_proj\.v_scale|([kv])_proj\.output_scale)"
)


class KvFormat(NamedTuple):
    """The storage format of a worker's KV.

    Attributes:
        flag: the resolved `--kv-cache-dtype`, which SGLang compares.
        dtype: the dtype that the flag selects for this model.
        scales: digest of the scales; empty where KV is not scaled, `1.0` where every scale is one.
    """

    flag: str
    dtype: str
    scales: str


class _Factors(BaseModel):
    model_config = ConfigDict(extra="ignore")

    dtype: str
    scaling_factor: dict[int, dict[int, float]]


class _ScaleFile(BaseModel):
    """The file that SGLang's `--quantization-param-path` names."""

    model_config = ConfigDict(extra="ignore")

    kv_cache: _Factors


def kv_format(model: Path, config: Mapping[str, Any], engine: Mapping[str, Any]) -> KvFormat:
    """Return the storage format of the KV of a worker with these flags.

    Args:
        model: directory of the checkpoint.
        config: its `config.json`.
        engine: SGLang's flags.

    Raises:
        CheckpointError: the scales cannot be read.
    """
    quantization = quantization_of(model, config)
    given = str(engine.get("kv_cache_dtype") or "auto")
    algorithm = _kv_algorithm(quantization)
    flag = "fp8_e4m3" if given == "auto" and algorithm == "FP8" else given
    if flag == "auto":
        return KvFormat(flag, _model_dtype(config, engine), "")
    if flag in UNSCALED:
        return KvFormat(flag, "bfloat16", "")
    return KvFormat(flag, flag, _digest(_scales(model, config, engine, quantization)))


def quantization_of(model: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the quantization of a checkpoint's weights in the form of `quantization_config`; empty if there is none.

    Args:
        model: directory of the checkpoint.
        config: its `config.json`.

    Raises:
        CheckpointError: `hf_quant_config.json` cannot be read.
    """
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, Mapping) else None
    for place in (config.get("quantization_config"), nested, config.get("compression_config")):
        if isinstance(place, Mapping) and place:
            return dict(place)
    file = model / "hf_quant_config.json"
    if not file.exists():
        return {}
    content = read_json(file)
    section = content.get("quantization", content)
    return {"quant_method": "modelopt", **section} if isinstance(section, Mapping) else {}


def _kv_algorithm(quantization: Mapping[str, Any]) -> str:
    """Return the KV algorithm that SGLang reads from a checkpoint's quantization; empty if there is none."""
    method, scheme = _method(quantization), quantization.get("kv_cache_scheme")
    modelopt = method.startswith("modelopt")
    if isinstance(scheme, Mapping) and (modelopt or method == "compressed-tensors"):
        eight_bits = scheme.get("type") == "float" and scheme.get("num_bits") == 8
        fixed = scheme.get("strategy") == "tensor" and scheme.get("symmetric", True) and not scheme.get("dynamic")
        return "FP8" if eight_bits and (modelopt or fixed) else ""
    if isinstance(scheme, str) and modelopt:
        return "FP8" if scheme.strip().upper() in ("FP8", "FLOAT8") else scheme.strip().upper()
    if modelopt or method in _NAMED_ALGORITHM:
        return str(quantization.get("kv_cache_quant_algo") or "").upper()
    return ""


def _scales(
    model: Path, config: Mapping[str, Any], engine: Mapping[str, Any], quantization: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """Return the scales of keys and of values by layer, without layers whose scales are both one."""
    file = engine.get("quantization_param_path")
    # SGLang reads the file only if the flag itself selects this dtype (`model_runner.py`, `load_kv_cache_scales`)
    if file and engine.get("kv_cache_dtype") == "fp8_e4m3":
        ranks = int(engine.get("tp_size") or 1)
        return _scales_in(Path(str(file)), int(config.get("text_config", config)["num_hidden_layers"]), ranks)
    method = _method(quantization) or str(engine.get("quantization") or "")
    algorithm = _kv_algorithm(quantization)
    # ModelOpt's 4-bit layers load scales for every algorithm
    taken = bool(algorithm) or (method == "modelopt_fp4") or method in _SCALED_BY
    return _scales_of(model) if taken else {}


def _scales_of(model: Path) -> dict[str, tuple[float, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, value in read_scalars(model, lambda name: _scale_at(name) is not None):
        layer, side = _scale_at(name) or ("", "")
        found.setdefault(layer, {})[side] = value
    return {layer: pair for layer, given in found.items() if (pair := _pair(given)) != (1.0, 1.0)}


def _scale_at(name: str) -> tuple[str, str] | None:
    """Return the layer whose KV a tensor scales, and `k` or `v` for its keys or values; None for any other tensor.

    The layers that predict several tokens ahead (`mtp`) belong to a draft model.
    """
    match = _SCALE.fullmatch(name, max(name.find("layers."), 0)) if not name.startswith("mtp.") else None
    if match is None:
        return None
    layer, *sides = match.groups()
    return layer, next(side for side in sides if side)


def _pair(given: Mapping[str, float]) -> tuple[float, float]:
    """Return the scales of keys and of values. A missing scale equals the other one; two missing scales are one.

    SGLang computes them so (`layers/quantization/kv_cache.py`), and counts a scale that is not positive as missing.
    """
    k, v = given.get("k", -1.0), given.get("v", -1.0)
    if k > 0 and v > 0:
        return k, v
    one = max(k, v)
    return (one, one) if one > 0 else (1.0, 1.0)


def _scales_in(file: Path, layers: int, ranks: int) -> dict[str, tuple[float, float]]:
    """Return the scales in a file of `--quantization-param-path`. SGLang silently ignores a file that it cannot use.

    Args:
        file: the JSON file.
        layers: hidden layers of the model.
        ranks: tensor-parallel ranks of the worker.

    Raises:
        CheckpointError: SGLang would ignore the file.
    """
    where = f"quantization_param_path: {file}"
    try:
        factors = _ScaleFile.model_validate(read_json(file)).kv_cache
    except ValidationError as e:
        raise CheckpointError(f"{where}: {first_invalid(e, _ScaleFile).describe('its content')}") from e
    if factors.dtype != "float8_e4m3fn":
        raise CheckpointError(f"{where}: kv_cache.dtype: must be `float8_e4m3fn` (got {factors.dtype!r})")
    given = factors.scaling_factor
    if sorted(given) != list(range(ranks)):
        raise CheckpointError(f"{where}: kv_cache.scaling_factor: must have each of {ranks} tensor-parallel ranks")
    for rank, scales in given.items():
        if sorted(scales) != list(range(layers)):
            raise CheckpointError(f"{where}: kv_cache.scaling_factor.{rank}: must have each of {layers} layers")
    if all(scales == given[0] for scales in given.values()):
        named = {str(layer): scale for layer, scale in given[0].items()}
    else:
        named = {f"{layer}@{rank}": scale for rank, scales in given.items() for layer, scale in scales.items()}
    return {name: (scale, scale) for name, scale in named.items() if scale != 1.0}


def _digest(scales: Mapping[str, tuple[float, float]]) -> str:
    if not scales:
        return UNIT_SCALES
    # SGLang stores them as float32
    content = json.dumps({layer: struct.pack("<ff", *pair).hex() for layer, pair in scales.items()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _method(quantization: Mapping[str, Any]) -> str:
    return str(quantization.get("quant_method") or "").lower()


def _model_dtype(config: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    dtype = str(engine.get("dtype") or "auto")
    if dtype == "auto":
        text = config.get("text_config", config)
        given = (part.get(key) for part in (text, config) for key in ("dtype", "torch_dtype"))
        dtype = str(next(filter(None, given), "float32"))
        if dtype == "float32":
            # SGLang's `auto` serves float32 checkpoints in these (`configs/model_config.py`)
            dtype = "bfloat16" if str(text.get("model_type")).startswith("gemma") else "float16"
    return _DTYPE_NAMES.get(dtype, dtype)
