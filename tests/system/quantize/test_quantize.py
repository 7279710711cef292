"""`sun quantize` with llmcompressor: `make quantize-env` first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.cli.main import main
from sun_sglang.quantize.environment import PLACE
from tests.support.quantize import arguments

pytestmark = pytest.mark.skipif(
    not (Path(__file__).parents[3] / PLACE).is_file(), reason="needs build/quantize/venv: make quantize-env"
)
GROUP = 32


def quantize(given: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main([*given, "--group-size", str(GROUP), "--threads", "1", "--json"])
    found = capsys.readouterr()
    assert ended.value.code == 0, found.err
    result: dict[str, Any] = json.loads(found.out)
    return result


def unpacked(model: Path) -> dict[str, torch.Tensor]:
    """Return the values of the packed weights, by the name of their layer."""
    tensors = load_file(model / "model.safetensors")
    values = {}
    for name, packed in tensors.items():
        if not name.endswith(".weight_packed"):
            continue
        layer = name.removesuffix(".weight_packed")
        nibbles = (packed.unsqueeze(2) >> torch.arange(0, 32, 4)) & 15
        scales = tensors[f"{layer}.weight_scale"].float().repeat_interleave(GROUP, dim=1)
        values[layer] = (nibbles.flatten(1) - 8) * scales
    return values


def test_rtn_packs_nearest_values_of_source(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    found = quantize(["quantize", str(source), "--output", str(out), "--algorithm", "rtn"], capsys)
    assert found["quality"] is None
    whole = load_file(source / "model.safetensors")
    values = unpacked(out)
    assert len(values) == found["matrices"] == 14
    for layer, value in values.items():
        weight = whole[f"{layer}.weight"].float()
        largest = weight.reshape(128, -1, GROUP).abs().amax(2).repeat_interleave(GROUP, dim=1)
        # half of one of the 15 steps; scale and quotient are bfloat16 numbers, each off by up to 1/512 of 7.5 steps
        assert ((weight - value).abs() <= largest / 7.5 * (0.5 + 2 * 7.5 / 512 + 0.01)).all()


@pytest.mark.parametrize("algorithm", ["awq", "gptq"])
def test_calibrated_checkpoint_is_one_that_workers_accept(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    out = tmp_path / "out"
    found = quantize(arguments(source, out, "--algorithm", algorithm), capsys)
    assert require_complete(out) == ""
    before, after = read_identity(source, {}), read_identity(out, {})
    assert (before.tokenizer, before.chat_template, before.kv_dtype) == (
        after.tokenizer,
        after.chat_template,
        "bfloat16",
    )
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    (group,) = config["config_groups"].values()
    assert (config["quant_method"], config["format"], config["ignore"]) == (
        "compressed-tensors",
        "pack-quantized",
        ["lm_head"],
    )
    assert [group["weights"][key] for key in ("num_bits", "symmetric", "strategy", "group_size")] == [
        4,
        True,
        "group",
        32,
    ]
    quality = found["quality"]
    assert len(quality["layers"]) == 2
    # 4 bits in groups of 32 move weights of a normal distribution by a tenth
    assert all(0 < error < 0.25 for error in quality["layers"])
    assert quality["divergence"] > 0
    assert found["size_after"] == (out / "model.safetensors").stat().st_size < found["size_before"]
    assert json.loads((out / "sun_quantize.json").read_text())["samples"] == 16
