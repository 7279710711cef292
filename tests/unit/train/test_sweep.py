"""`sun train` from a recipe to a checkpoint, on a model of two layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.kv_compatibility import pair_difference
from sun_sglang.contracts.module_file import read_module_file
from sun_sglang.demo.tokenizer import VOCAB_SIZE, build_tokenizer
from sun_sglang.errors import RecipeError
from sun_sglang.train.estimate import estimate
from sun_sglang.train.fingerprint import make_fingerprint
from sun_sglang.train.modules import build_modules
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from sun_sglang.train.trainer.trained_state import trained_state


def quiet(_line: str) -> None:
    """Print nothing."""


@pytest.mark.parametrize(
    ("scheme", "first"), [("prefill_only", "prefill"), ("decode_only", "decode"), ("full", "prefill")]
)
def test_the_output_is_a_plain_checkpoint_with_its_record(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path, scheme: str, first: str
) -> None:
    lines: list[str] = []
    out = tmp_path / "out"
    run_sweep(prepare(recipe(scheme=scheme, first_token=first)), "sun train recipe.yaml", lines.append)

    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.float16
    identities = [read_identity(path, {}) for path in (out, base)]
    assert pair_difference(*identities) is None, "tokenizer, template and architecture are the base's"
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    record = read_module_file(out)
    assert record is not None
    assert (record.scheme, record.first_token, record.base) == (scheme, first, weights_revision(base))
    assert record.decoder == weights_revision(base if scheme == "prefill_only" else out) != ""
    assert record.learning_rate == 1e-2, "the rate that learns something"
    assert record.recipe is not None
    assert str(tmp_path) not in (out / "sun.json").read_text(), "no path of this machine"
    assert len(lines) == 3


def test_a_search_that_was_cut_short_goes_on(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe(output="./whole", save_steps=2, learning_rates=[5e-3, 1e-2])
    run_sweep(prepare(whole), "c", quiet)

    cut = recipe(output="./cut", save_steps=2, learning_rates=[5e-3, 1e-2])
    from transformers import Trainer

    step, steps = Trainer.training_step, [0]

    def stop(*arguments: Any, **options: Any) -> Any:
        steps[0] += 1
        # in the second rate, between two checkpoints; 12 micro batches a rate
        if steps[0] == 12 + 7:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(prepare(cut), "c", quiet)
    assert list((tmp_path / "cut" / "training").glob("*/checkpoint-2"))
    with pytest.raises(RecipeError, match="contains a training already; continue it with --resume"):
        run_sweep(prepare(cut), "c", quiet)
    with pytest.raises(RecipeError, match="belongs to another recipe"):
        run_sweep(prepare(recipe(output="./cut", seed=3)), "c", quiet, resume=True)
    lines: list[str] = []
    run_sweep(prepare(cut), "c", lines.append, resume=True)

    assert "done before" in lines[0]
    assert steps[0] < 2 * 12 + 7, "what was done is not done again"
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_lora_trains_its_adapter_alone_and_can_be_merged(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path
) -> None:
    lora = recipe(lora={"rank": 4, "alpha": 8}, learning_rates=[1e-2])
    module = build_modules(lora, base, base)
    state = trained_state(module)
    assert state
    assert all("lora_" in name and name.startswith("prefill.") for name in state)
    again = trained_state(build_modules(lora, base, base))
    assert all(torch.equal(again[name], value) for name, value in state.items()), "the seed is the recipe's"
    assert estimate(prepare(lora)).trained == sum(p.numel() for p in state.values())
    shared = module.decode.model.layers[0].mlp.up_proj.weight.data_ptr()
    assert module.prefill.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.data_ptr() == shared

    run_sweep(prepare(lora), "c", quiet)
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == len(state)
    record = read_module_file(tmp_path / "out" / "adapter")
    assert record is not None
    assert record.scheme == "prefill_only"
    served = read_adapter(tmp_path / "out" / "adapter")
    assert (served.base, served.tuned_for, served.rank) == (record.base, record.decoder, 4)
    assert served.fingerprint == make_fingerprint(tmp_path / "out" / "adapter", base)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    run_sweep(prepare(lora), "c", quiet, resume=True, merge=True)

    beside = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert adapter.keys() == beside.keys()
    assert all(torch.equal(adapter[name], value) for name, value in beside.items())
    merged, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", base))
    changed = {name for name in before if not torch.equal(merged[name], before[name])}
    assert changed
    assert all(name.endswith("_proj.weight") for name in changed)


def test_half_precision_and_recomputed_layers_train(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plain = recipe(output="./plain", learning_rates=[1e-2])
    run_sweep(prepare(plain), "c", quiet)
    other = recipe(output="./other", learning_rates=[1e-2], bf16=True, gradient_checkpointing=True)
    run_sweep(prepare(other), "c", quiet)
    losses = [
        next(iter(json.loads((tmp_path / name / "training" / "search.json").read_text())["losses"].values()))
        for name in ("plain", "other")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_estimate_counts_what_is_built(recipe: Callable[..., Recipe], base: Path) -> None:
    for scheme in ("prefill_only", "full"):
        loaded = recipe(scheme=scheme)
        sizes, module = estimate(prepare(loaded)), build_modules(loaded, base, base)
        assert sizes.trained == sum(p.numel() for p in module.parameters() if p.requires_grad)
        assert sizes.weights == sum(p.numel() * p.element_size() for p in module.parameters())
        assert (sizes.examples, sizes.validation, sizes.steps, sizes.rates) == (48, 12, 6, 2)
        assert sizes.accumulation == 2


def test_packed_rows_train_as_padded_batches_do(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    # a step of all examples, so that their order has no effect
    common: dict[str, Any] = {"learning_rates": [1e-2], "global_batch": 48, "micro_batch": 12, "epochs": 4}
    for name, change in (("padded", {}), ("packed", {"packing_tokens": 1024})):
        run_sweep(prepare(recipe(output=f"./{name}", **common, **change)), "c", quiet)
    padded, packed = (
        json.loads((path / "training" / "search.json").read_text())["losses"]["0.01"]
        for path in (tmp_path / "padded", tmp_path / "packed")
    )
    assert packed == pytest.approx(padded, rel=1e-4)


def test_packing_fills_rows_and_the_estimate_knows(recipe: Callable[..., Recipe]) -> None:
    one = prepare(recipe(global_batch=16, micro_batch=16))
    packed = prepare(recipe(global_batch=16, packing_tokens=1024))
    assert packed.rows is not None
    assert len(packed.rows) < len(packed.examples.train), "several examples share a row"
    sizes = estimate(packed)
    assert sizes.accumulation == packed.rows.per_step
    assert sizes.steps == estimate(one).steps == 3
    assert sizes.activations < estimate(one).activations, "no padding to the longest"


def test_what_cannot_be_trained_is_named(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"base: .*no such directory"):
        prepare(recipe(base="./nowhere"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match="global_batch"):
        prepare(recipe())
    monkeypatch.setenv("WORLD_SIZE", "1")
    targets = recipe(lora={"targets": ["nothing"]})
    with pytest.raises(RecipeError, match=r"lora\.targets"):
        build_modules(targets, Path(targets.base), Path(targets.base))


def test_metrics_go_to_tensorboard(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run_sweep(prepare(recipe(report_to=["tensorboard"], learning_rates=[1e-2])), "c", quiet)
    (runs,) = (tmp_path / "out" / "training" / "0.01" / "runs").iterdir()
    events = EventAccumulator(str(runs))
    events.Reload()
    rates, losses = ([e.value for e in events.Scalars(f"train/{name}")] for name in ("learning_rate", "loss"))
    assert len(rates) == len(losses) == 6, "every step"
    assert rates[0] < max(rates) == pytest.approx(1e-2)
    assert rates[-1] < max(rates), "up, and down again"
    (validation,) = events.Scalars("eval/loss")
    kept = json.loads((tmp_path / "out" / "training" / "search.json").read_text())["losses"]["0.01"]
    assert validation.value == pytest.approx(kept)


def test_a_padding_token_beyond_the_embedding_is_not_used(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    prepared = prepare(recipe(learning_rates=[1e-2]))
    prepared.tokenizer.add_special_tokens({"pad_token": "<|new|>"})
    assert prepared.tokenizer.pad_token_id == VOCAB_SIZE, "as large as the embedding"
    run_sweep(prepared, "c", quiet)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_data_that_the_base_cannot_take_is_named(recipe: Callable[..., Recipe], base: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    shutil.copytree(base, small)
    config = json.loads((base / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    with pytest.raises(RecipeError, match=r"data.max_length: 4096 tokens, and the model has 512 positions"):
        prepare(recipe(base=str(small), data={"file": str(base / "train.jsonl"), "max_length": 4096}))
    data = {"file": str(base / "train.jsonl"), "messages": "messages", "response": "answer"}
    ids = build_tokenizer().convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": min(ids)}))
    weights = load_file(small / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][: min(ids)].clone()
    save_file(weights, small / "model.safetensors", {"format": "pt"})
    with pytest.raises(RecipeError, match=r"train.jsonl:1: the tokenizer makes the id \d+ \(`<\|"):
        prepare(recipe(base=str(small), data=data))
