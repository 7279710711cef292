"""Check that the workers of a CPU can serve the quantised weights of their checkpoint.

SGLang's kernels for quantised weights need a GPU, or the package `sgl_kernel`, which has no wheel for CPUs. The hooks
in `patches/weights/` serve one format on a CPU: compressed-tensors `pack-quantized` with integers of 4 bits (8 bits
too, unpacked when they are loaded) and full-precision activations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.format import quantization_of
from sun_sglang.errors import CheckpointError
from sun_sglang.launch.planning.pools import Pools, ResolvedPool
from sun_sglang.packed_weights.cpu_limits import LayerFormat, why_unpacked
from sun_sglang.packed_weights.names import is_permuted
from sun_sglang.strict import first_invalid

# integers that SGLang's scheme takes (`WNA16_SUPPORTED_BITS` in `compressed_tensors_wNa16.py`)
_BITS = (4, 8)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_FIX = "quantise the model with `sun quantize` (4 bits, symmetric, groups of 32, 64, 128 or 256), or serve it on a GPU"


class _Weights(BaseModel):
    model_config = ConfigDict(extra="ignore")

    num_bits: int
    type: str = "int"
    symmetric: bool = True
    strategy: str | None = None
    group_size: int | None = None
    actorder: str | bool | None = None


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore")

    weights: _Weights | None = None
    input_activations: dict[str, Any] | None = None
    format: str | None = None


class _Quantization(BaseModel):
    model_config = ConfigDict(extra="ignore")

    format: str | None = None
    config_groups: dict[str, _Group] = {}


def cpu_weight_notes(pools: Pools) -> Iterator[str]:
    """Check the quantised weights of the pools on a CPU, and yield a sentence for each pool that serves them unpacked.

    Raises:
        CheckpointError: a CPU cannot serve them; names the pool, the reason and the fix.
    """
    if importlib.util.find_spec("sgl_kernel"):
        # SGLang's own build for CPUs has kernels of its own
        return
    for pool in pools.values():
        if pool.uses_gpu or not pool.kind.needs_checkpoint or pool.checkpoint is None:
            continue
        if pool.checkpoint.directory is None:
            continue
        config = read_json(pool.checkpoint.directory / "config.json")
        quantization = quantization_of(pool.checkpoint.directory, config)
        if quantization:
            yield from _notes(pool, config, quantization)
        elif given := pool.flags.get("quantization"):
            raise _refusal(
                pool, f"no kernel of SGLang quantises weights while they are loaded (`quantization: {given}`)"
            )


def _notes(pool: ResolvedPool, config: Mapping[str, Any], quantization: Mapping[str, Any]) -> Iterator[str]:
    method = str(quantization.get("quant_method"))
    if method != "compressed-tensors":
        raise _refusal(pool, f"SGLang has no kernel for `{method}` weights there")
    try:
        found = _Quantization.model_validate(quantization)
    except ValidationError as e:
        problem = first_invalid(e, _Quantization, show_value=True).describe()
        raise CheckpointError(f"{pool.where}.model: its quantization_config: no usable {problem}") from e
    reasons: dict[str, None] = {}
    for name, group in found.config_groups.items():
        weights = group.weights
        if weights is None:
            continue
        if problem := _problem(group, weights, group.format or found.format, config):
            raise _refusal(pool, f"`config_groups.{name}` {problem}")
        size = weights.group_size if weights.strategy == "group" else None
        order = is_permuted(weights.actorder)
        if reason := why_unpacked(LayerFormat(weights.num_bits, size, weights.symmetric, order)):
            reasons[reason] = None
    if reasons:
        yield (
            f"`{pool.name}`: its weights are unpacked when they are loaded, and take the memory and time of full "
            f"precision: torch's 4-bit kernel does not take them: {'; '.join(reasons)}."
        )


def _problem(group: _Group, weights: _Weights, form: str | None, config: Mapping[str, Any]) -> str:
    """Return why the hooks do not serve a group's layers; empty where they do."""
    if group.input_activations is not None:
        return "quantises activations, and only weights can be quantised there"
    if weights.type != "int" or form != "pack-quantized":
        return (
            f"has `{weights.type}` weights in the format `{form}`, and only `int` in `pack-quantized` is served there"
        )
    if weights.num_bits not in _BITS:
        return f"has weights of {weights.num_bits} bits, and SGLang's scheme takes {' and '.join(map(str, _BITS))}"
    if weights.strategy not in ("group", "channel"):
        return f"has scales of the strategy `{weights.strategy}`, and SGLang's scheme takes `group` and `channel`"
    text = config.get("text_config") or config
    if any(text.get(key) for key in _EXPERTS):
        return "quantises a model with experts, and SGLang has kernels for those on GPUs alone"
    return ""


def _refusal(pool: ResolvedPool, problem: str) -> CheckpointError:
    return CheckpointError(f"{pool.where}.model: a CPU cannot serve these weights: {problem}; {_FIX}")
