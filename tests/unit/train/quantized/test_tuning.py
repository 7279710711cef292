"""Tune a prefill module against a quantised decoder: the loss and the gradients of its dense twin, and the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import read_module_file
from sun_sglang.errors import CheckpointError, RecipeError, UserError
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.packing import Row, collate_row
from sun_sglang.train.estimate import estimate
from sun_sglang.train.modules import build_modules
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from tests.unit.train.quantized.conftest import Twins

Load = Callable[..., Recipe]
VARIANTS: dict[str, dict[str, Any]] = {
    "padded": {},
    "first token from the decode module": {"first_token": "decode"},
    "packed rows": {"packing_tokens": 1024},
    "recomputed layers": {"gradient_checkpointing": True},
    "lora": {"lora": {"rank": 4}},
}


def loss_and_gradients(recipe: Recipe) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of a batch, and the gradients of the trained parameters."""
    prepared = prepare(recipe)
    module = build_modules(recipe, prepared.base, prepared.decoder).train()
    batch = tuple(prepared.examples.train[:6])
    inputs = collate_row(Row(batch)) if recipe.packing_tokens else collate(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
        loss = module(**inputs).loss
    loss.backward()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert all(not name.startswith("decode.") for name in trained)
    return loss.detach(), {name: p.grad for name, p in trained.items() if p.grad is not None}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_loss_and_gradients_of_a_quantized_decoder_are_those_of_its_dense_twin(
    recipe: Load, twins: Twins, change: dict[str, Any]
) -> None:
    loss, gradients = loss_and_gradients(recipe(decoder=str(twins.packed), **change))
    expected, others = loss_and_gradients(recipe(decoder=str(twins.dense), **change))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert gradients.keys() == others.keys()
    assert any(bool(gradient.any()) for gradient in gradients.values())
    torch.testing.assert_close(gradients, others, rtol=1e-4, atol=1e-7)


def test_loss_in_bfloat16_is_that_of_the_dense_twin_but_for_rounding(recipe: Load, twins: Twins) -> None:
    # the twin's weights are rounded to the base's float16 before bfloat16
    (loss, gradients), (expected, others) = (
        loss_and_gradients(recipe(decoder=str(decoder), bf16=True)) for decoder in (twins.packed, twins.dense)
    )
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    own, other = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (gradients, others))
    assert own.dtype == torch.float32
    assert float(torch.cosine_similarity(own, other, dim=0)) > 0.99


def test_retuning_from_a_sun_module_records_the_quantized_decoder(
    recipe: Load, base: Path, twins: Twins, tmp_path: Path
) -> None:
    sun, again = tmp_path / "sun", tmp_path / "again"
    rates = {"learning_rates": [1e-3], "max_steps": 2}
    first = run_sweep(prepare(recipe(output=str(sun), **rates)), "c", lambda _: None)
    before = {file.name: file.read_bytes() for file in twins.packed.iterdir()}
    recorded = recipe(base=str(sun), decoder=str(twins.packed), output=str(again), **rates)
    second = run_sweep(prepare(recorded), "c", lambda _: None)
    assert (first.base, first.decoder) == (weights_revision(base),) * 2
    assert (second.base, second.decoder) == (weights_revision(sun), read_identity(twins.packed, {}).decoder)
    assert read_module_file(again) == second
    old, new = (load_file(path / "model.safetensors") for path in (sun, again))
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert {file.name: file.read_bytes() for file in twins.packed.iterdir()} == before


def test_estimate_of_a_quantized_decoder_counts_its_packed_weights(recipe: Load, twins: Twins) -> None:
    dense, packed = (estimate(prepare(recipe(decoder=str(d)))) for d in (twins.dense, twins.packed))
    decoder = build_modules(recipe(), twins.dense, twins.packed).decode
    held = sum(t.nbytes for t in [*decoder.parameters(), *decoder.buffers()])
    rope = sum(b.nbytes for name, b in decoder.named_buffers() if name.endswith("inv_freq"))
    assert packed.weights == 4 * packed.parameters + held - rope
    assert packed.weights < dense.weights
    assert packed.trained == dense.trained


@pytest.mark.parametrize("scheme", ["decode_only", "full"])
def test_quantized_decoder_is_refused_where_the_decode_side_is_trained(recipe: Load, twins: Twins, scheme: str) -> None:
    with pytest.raises(RecipeError, match=f"decoder: `{scheme}` trains the decoder; remove `decoder`"):
        recipe(scheme=scheme, first_token="prefill", decoder=str(twins.packed))


def test_quantized_base_is_refused_before_its_data_is_read(recipe: Load, twins: Twins) -> None:
    data = {"file": "absent.jsonl", "messages": "messages"}
    with pytest.raises(CheckpointError, match=r"base: .* is quantised, .* and the quantised model as `decoder`"):
        prepare(recipe(base=str(twins.packed), data=data))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_key_value_heads", 4, "decoder: .*: its number of KV heads is 4, and the base's is 2"),
        ("rope_parameters", {"rope_theta": 5.0, "rope_type": "default"}, "decoder: .*: its RoPE is "),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "is quantised by `gptq`"),
    ],
)
def test_decoder_of_another_layout_is_refused_before_its_data_is_read(
    recipe: Load, twins: Twins, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(twins.packed, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=message):
        prepare(recipe(decoder=str(other), data={"file": "absent.jsonl", "messages": "messages"}))
