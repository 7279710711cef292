from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sun_sglang.bench.gpu_check.models.quantize import write_four_bit
from sun_sglang.checkpoint.completeness.stored import read_stored
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.errors import CheckpointError, QuantizeFailed
from sun_sglang.quantize.finish import complete, publish
from sun_sglang.quantize.grid import plan
from sun_sglang.quantize.origin import Origin

ORIGIN = Origin(
    source="0" * 16, algorithm="rtn", bits=4, group_size=128, calibration="", samples=0, tokens=0, seed=0, versions={}
)
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def made(source: Path, tmp_path: Path) -> Path:
    """What llmcompressor leaves: packed weights and `config.json`, no tokenizer."""
    directory = tmp_path / "work" / "checkpoint"
    write_four_bit(source, directory, tmp_path / "rounded")
    for file in directory.glob("*"):
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    return directory


def change(made: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(made / "model.safetensors")
    edit(tensors)
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})


def test_complete_checkpoint_has_tokenizer_of_source_byte_for_byte(source: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        read_identity(made, {})
    (made / "tokenizer_config.json").write_text("{}")  # a library's own
    complete(made, source, plan(read_stored(source), 128), ORIGIN)
    publish(made, tmp_path / "out")
    assert not made.exists()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    before, after = read_identity(source, {}), read_identity(tmp_path / "out", {})
    assert (before.tokenizer, before.chat_template) == (after.tokenizer, after.chat_template)
    assert before.decoder != after.decoder
    assert json.loads((tmp_path / "out" / "sun_quantize.json").read_text())["source"] == "0" * 16


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight_scale"), "weight_scale` is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "`extra` was not expected"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight_scale": torch.zeros(128, 2)}),
            r"has the shape \[128, 2\], and config.json requires \[128, 1\] \(4 bits, groups of 128\)",
        ),
        (lambda t: t.pop("model.norm.weight"), "no file holds `model.norm.weight`"),
    ],
)
def test_checkpoint_that_is_not_as_planned_is_refused(
    source: Path, made: Path, edit: Callable[[Tensors], object], problem: str
) -> None:
    change(made, edit)
    with pytest.raises(QuantizeFailed, match=problem):
        complete(made, source, plan(read_stored(source), 128), ORIGIN)


def test_other_configuration_is_refused(source: Path, made: Path) -> None:
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    with pytest.raises(QuantizeFailed, match="its kv_dtype is float16, and the source's is bfloat16"):
        complete(made, source, plan(read_stored(source), 128), ORIGIN)


def test_name_that_is_taken_meanwhile_is_left_alone(source: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "out")
    with pytest.raises(QuantizeFailed, match="was made by another program meanwhile"):
        publish(made, tmp_path / "out")
    assert made.exists()
