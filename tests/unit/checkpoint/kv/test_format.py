import json
import struct
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.kv.format import kv_format
from sun_sglang.contracts.kv_compatibility import require_same
from sun_sglang.errors import CheckpointError, IdentityError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology_file import parse_topology

Write = Callable[..., Path]
FIXED = {"type": "float", "num_bits": 8, "strategy": "tensor", "symmetric": True, "dynamic": False}
COMPRESSED = {"quantization_config": {"quant_method": "compressed-tensors", "kv_cache_scheme": FIXED}}
FP8 = {"quantization_config": {"quant_method": "fp8"}}
EIGHT_BITS = {"kv_cache_dtype": "fp8_e4m3"}
ATTENTION = "model.layers.{}.self_attn"


@pytest.fixture
def write_scaled(write_checkpoint: Write) -> Write:
    """Write a checkpoint with scalar tensors: a name, keys of its `config.json`, and the tensors' values by name."""

    def write(name: str, config: Mapping[str, Any], scales: Mapping[str, float], dtype: str = "F32") -> Path:
        model = write_checkpoint(name, config)
        pack = {"F32": lambda v: struct.pack("<f", v), "BF16": lambda v: struct.pack("<f", v)[2:]}[dtype]
        data = [pack(value) for value in scales.values()]
        header, offset = {}, 0
        for tensor, content in zip(scales, data, strict=True):
            end = offset + len(content)
            header[tensor] = {"dtype": dtype, "shape": [], "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        (model / "scales.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
        return model

    return write


def scales(k: float, v: float, layers: int = 2) -> dict[str, float]:
    return {f"{ATTENTION.format(n)}.{side}_scale": s for n in range(layers) for side, s in (("k", k), ("v", v))}


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        ({}, "auto"),
        (COMPRESSED, "fp8_e4m3"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "kv_cache_scheme": None}}, "auto"),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "kv_cache_scheme": FIXED | {"dynamic": True},
                }
            },
            "auto",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "auto"),
        ({"quantization_config": {"quant_method": "fp8", "kv_cache_quant_algo": "fp8"}}, "fp8_e4m3"),
        ({"quantization_config": {"quant_method": "awq", "kv_cache_quant_algo": "FP8"}}, "auto"),
        ({"quantization_config": {"quant_method": "modelopt", "kv_cache_scheme": "FP8"}}, "fp8_e4m3"),
        (
            {
                "quantization_config": {
                    "quant_method": "modelopt",
                    "quant_algo": "NVFP4",
                    "kv_cache_scheme": {"type": "float", "num_bits": 8},
                }
            },
            "fp8_e4m3",
        ),
        ({"text_config": {"quantization_config": {"quant_method": "fp8", "kv_cache_quant_algo": "FP8"}}}, "fp8_e4m3"),
    ],
)
def test_flag_auto_with_a_checkpoints_own_algorithm_is_resolved_as_sglang_does(
    tmp_path: Path, config: dict[str, Any], flag: str
) -> None:
    assert kv_format(tmp_path, config, {}).flag == flag
    assert kv_format(tmp_path, config, {"kv_cache_dtype": "bf16"}).flag == "bf16", "a flag wins"


def test_algorithm_in_modelopts_own_file_is_read(tmp_path: Path) -> None:
    content = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(content))
    assert kv_format(tmp_path, {}, {}).flag == "fp8_e4m3"


@pytest.mark.parametrize(
    ("prefill", "decode", "values"),
    [
        ({"kv_cache_dtype": "bf16"}, {}, "math: bf16, base: auto"),
        ({"kv_cache_dtype": "bf16"}, {"kv_cache_dtype": "bfloat16"}, "math: bf16, base: bfloat16"),
        ({}, EIGHT_BITS, "math: auto, base: fp8_e4m3"),
    ],
)
def test_flags_that_sglang_tells_apart_are_refused_although_the_dtype_is_one(
    write_checkpoint: Write, prefill: dict[str, Any], decode: dict[str, Any], values: str
) -> None:
    model = write_checkpoint("model")
    left, right = read_identity(model, prefill), read_identity(model, decode)
    with pytest.raises(IdentityError) as caught:
        require_same(left, right, names=("math", "base"), where="tasks.sums")
    assert str(caught.value) == (
        f"tasks.sums: `math` and `base` cannot share KV: kv_cache_dtype differs ({values}); "
        "SGLang compares the flag as it is written, so give both the same `kv_cache_dtype`"
    )


def test_dtypes_behind_one_auto_are_refused_although_sglang_takes_them(write_checkpoint: Write) -> None:
    model = write_checkpoint("model")
    left, right = read_identity(model, {"dtype": "float16"}), read_identity(model, {"dtype": "bfloat16"})
    with pytest.raises(IdentityError, match=r"kv_dtype differs \(math: float16, base: bfloat16\)"):
        require_same(left, right, names=("math", "base"), where="tasks.sums")


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "float16"),
        ({"torch_dtype": "float32"}, "float16"),
        ({"model_type": "gemma2", "torch_dtype": "float32"}, "bfloat16"),
        ({"torch_dtype": "bfloat16", "text_config": {"model_type": "gemma3_text"}}, "bfloat16"),
        ({"dtype": "bfloat16", "text_config": {"dtype": "float16"}}, "float16"),
    ],
)
def test_flag_auto_stands_for_the_dtype_that_sglang_serves(tmp_path: Path, config: dict[str, Any], dtype: str) -> None:
    assert kv_format(tmp_path, config, {}).dtype == dtype


def test_unequal_scales_are_refused(write_scaled: Write) -> None:
    math, base = write_scaled("math", COMPRESSED, scales(0.5, 0.25)), write_scaled("base", COMPRESSED, scales(0.5, 0.5))
    left, right = read_identity(math, {}), read_identity(base, {})
    with pytest.raises(IdentityError) as caught:
        require_same(left, right, names=("math", "base"), where="tasks.sums")
    assert str(caught.value) == (
        f"tasks.sums: `math` and `base` cannot share KV: kv_scales differs (math: {left.kv_scales}, "
        f"base: {right.kv_scales}); 8-bit KV is wrong for a side that scales it otherwise; use equal scales on both, "
        "or 16-bit KV"
    )


def test_pair_with_unequal_scales_is_refused_before_a_start(write_scaled: Write) -> None:
    models = [write_scaled(name, COMPRESSED, scales(k, 0.5)) for name, k in (("math", 0.5), ("base", 0.25))]
    text = """
pools: {{math: {{role: prefill, model: {}}}, base: {{role: decode, model: {}}}}}
tasks: {{sums: {{prefill: math, decode: base}}}}
"""
    for pair, refused in ((models, True), ([models[1]] * 2, False)):
        topology = parse_topology(text.format(*pair), base=Path("/nowhere"))
        with pytest.raises(IdentityError, match=r"tasks\.sums: .*kv_scales differs") if refused else nullcontext():
            preflight(topology, Machine(cores=2, memory=1 << 34), None)


@pytest.mark.parametrize(
    ("tensors", "same_as"),
    [
        (scales(1.0, 1.0), {}),
        (scales(-1.0, -1.0), {}),
        (scales(0.5, -1.0), scales(0.5, 0.5)),
        ({f"{ATTENTION.format(n)}.kv_scale": 0.5 for n in range(2)}, scales(0.5, 0.5)),
        ({f"{ATTENTION.format(n)}.{s}_proj.{s}_scale": 0.5 for n in range(2) for s in "kv"}, scales(0.5, 0.5)),
        ({f"{ATTENTION.format(n)}.{s}_proj.output_scale": 0.5 for n in range(2) for s in "kv"}, scales(0.5, 0.5)),
        ({**scales(0.5, 0.5), "model.layers.0.mlp.down_proj.weight_scale": 3.0}, scales(0.5, 0.5)),
        ({**scales(0.5, 0.5), f"{ATTENTION.format(0)}.attn.k_scale": 3.0}, scales(0.5, 0.5)),
        ({**scales(0.5, 0.5), f"{ATTENTION.format(0)}.qkv_proj.k_scale": 3.0}, scales(0.5, 0.5)),
        ({f"language_model.{name}": value for name, value in scales(0.5, 0.5).items()}, scales(0.5, 0.5)),
        ({**scales(0.5, 0.5), "mtp.layers.0.self_attn.k_scale": 3.0}, scales(0.5, 0.5)),
    ],
)
def test_scales_with_one_meaning_have_one_digest(
    write_scaled: Write, tensors: dict[str, float], same_as: dict[str, float]
) -> None:
    a, b = write_scaled("a", FP8, tensors), write_scaled("b", FP8, same_as, "BF16")
    assert kv_format(a, FP8, EIGHT_BITS) == kv_format(b, FP8, EIGHT_BITS)


def test_scale_of_another_layer_is_another_digest(write_scaled: Write) -> None:
    one = write_scaled("one", FP8, {f"{ATTENTION.format(0)}.k_scale": 0.5})
    other = write_scaled("other", FP8, {f"{ATTENTION.format(1)}.k_scale": 0.5})
    assert kv_format(one, FP8, EIGHT_BITS).scales != kv_format(other, FP8, EIGHT_BITS).scales


def test_scales_that_sglang_does_not_load_do_not_count(write_scaled: Write) -> None:
    plain = write_scaled("plain", {}, scales(0.5, 0.5))
    assert kv_format(plain, {}, EIGHT_BITS).scales == "1.0"
    quantized = write_scaled("quantized", FP8, scales(0.5, 0.5))
    assert kv_format(quantized, FP8, {}) == ("auto", "float16", ""), "KV in the model's own dtype is not scaled"


def scale_file(path: Path, factors: Any, dtype: str = "float8_e4m3fn") -> dict[str, str]:
    path.write_text(json.dumps({"model_type": "llama", "kv_cache": {"dtype": dtype, "scaling_factor": factors}}))
    return {**EIGHT_BITS, "quantization_param_path": str(path)}


def test_file_with_the_checkpoints_scales_pairs_with_it(write_scaled: Write, tmp_path: Path) -> None:
    own = kv_format(write_scaled("own", FP8, scales(0.5, 0.5)), {**FP8, "num_hidden_layers": 2}, EIGHT_BITS)
    flags = scale_file(tmp_path / "scales.json", {"0": {"0": 0.5, "1": 0.5}})
    plain = write_scaled("plain", {}, {})
    config = {"num_hidden_layers": 2}
    assert kv_format(plain, config, flags) == own
    two = scale_file(tmp_path / "two.json", {"0": {"0": 0.5, "1": 0.5}, "1": {"0": 0.5, "1": 0.5}})
    assert kv_format(plain, config, {**two, "tp_size": 2}) == own
    assert kv_format(plain, config, {**flags, "kv_cache_dtype": "auto"}).scales == "", "SGLang does not read it then"


@pytest.mark.parametrize(
    ("factors", "dtype", "message"),
    [
        ({"0": {"0": 0.5}}, "float8_e4m3fn", r"kv_cache\.scaling_factor\.0: must have each of 2 layers"),
        ({"1": {"0": 0.5, "1": 0.5}}, "float8_e4m3fn", r"kv_cache\.scaling_factor: must have each of 1 tensor"),
        ({"0": {"0": 0.5, "1": 0.5}}, "float8_e5m2", r"kv_cache\.dtype: must be `float8_e4m3fn`"),
        ("many", "float8_e4m3fn", r"kv_cache\.scaling_factor: Input should be a valid dictionary"),
    ],
)
def test_file_that_sglang_would_ignore_is_refused(tmp_path: Path, factors: Any, dtype: str, message: str) -> None:
    flags = scale_file(tmp_path / "scales.json", factors, dtype)
    with pytest.raises(CheckpointError, match=rf"quantization_param_path: .*scales\.json: {message}"):
        kv_format(tmp_path, {"num_hidden_layers": 2}, flags)


def test_scale_that_is_no_number_is_named(write_checkpoint: Write) -> None:
    model = write_checkpoint("model")
    text = json.dumps(
        {f"{ATTENTION.format(0)}.k_scale": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    ).encode()
    (model / "scales.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0")
    with pytest.raises(CheckpointError, match=r"scales\.safetensors: cannot be read \(a scale of type U8\)"):
        kv_format(model, FP8, EIGHT_BITS)
