"""Estimate parameters, memory and steps of a recipe before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sun_sglang.errors import RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.data.packing import PackedRows
from sun_sglang.train.modules import dtype_of
from sun_sglang.train.quantized.load_quantized import held_bytes
from sun_sglang.train.quantized.supported import is_quantized
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import PreparedRecipe
from sun_sglang.train.trainer.launched_processes import world_size

_ADAM = 2 * 4


@dataclass(frozen=True)
class Estimate:
    """Sizes of a training. Memory is in bytes, for one process.

    Attributes:
        parameters: number of parameters of one module.
        trained: number of trained parameters: all, or those of the adapters.
        weights: bytes of both modules.
        gradients: bytes of the gradients of the trained parameters.
        optimizer: bytes of AdamW's two moments.
        activations: bytes that a micro batch of the longest example, or the longest packed row, keeps for the backward
            pass. An estimate from the architecture: hidden states, projections and MLP of every layer, and the logits
            of the answers; without attention scores.
        accumulation: micro batches, or packed rows, in one step of a process.
        examples: number of training examples.
        left_out: number of examples that are left out.
        validation: number of validation examples.
        steps: optimizer steps for one learning rate.
        rates: number of learning rates.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    accumulation: int
    examples: int
    left_out: int
    validation: int
    steps: int
    rates: int

    @property
    def total(self) -> int:
        """Memory of a process in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(prepared: PreparedRecipe) -> Estimate:
    """Return the sizes of a prepared recipe, without loading weights.

    Raises:
        RecipeError: the model does not have a layer of `lora.targets`.
    """
    recipe = prepared.recipe
    config = AutoConfig.from_pretrained(prepared.base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in model.parameters())
    trained = parameters if recipe.lora is None else _lora_parameters(model, recipe)
    served = dtype_of(prepared.base).itemsize if recipe.bf16 else 4
    one_module = recipe.tuning_scheme.one_module
    if one_module:
        frozen = 0
    else:
        frozen = held_bytes(prepared.decoder, served) if is_quantized(prepared.decoder) else parameters * served
    if recipe.lora is None:
        weights = 4 * parameters + frozen
    else:
        shared = not one_module and prepared.decoder == prepared.base
        weights = parameters * served + 4 * trained + (0 if shared else frozen)
    rows = prepared.rows
    return Estimate(
        parameters=parameters,
        trained=trained,
        weights=weights,
        gradients=4 * trained,
        optimizer=_ADAM * trained,
        activations=_activations(recipe, config, *_largest_batch(prepared, rows)),
        accumulation=recipe.accumulation(world_size()) if rows is None else rows.per_step // world_size(),
        examples=len(prepared.examples.train),
        left_out=prepared.examples.report.left_out_count,
        validation=len(prepared.examples.validation),
        steps=prepared.steps,
        rates=len(recipe.learning_rates),
    )


def _largest_batch(prepared: PreparedRecipe, rows: PackedRows | None) -> tuple[int, int]:
    """Return the most tokens, and the most answer tokens, of any micro batch or packed row."""
    train, micro = prepared.examples.train, prepared.recipe.micro_batch
    batches = [(example,) * micro for example in train] if rows is None else [[train[i] for i in row] for row in rows]
    answers = [sum(len(e.answer) for e in batch) for batch in batches]
    prompts = [sum(len(e.prompt) for e in batch) for batch in batches]
    return max(map(sum, zip(prompts, answers, strict=True))), max(answers)


def _activations(recipe: Recipe, config: Any, tokens: int, answers: int) -> int:
    width = 2 if recipe.bf16 else 4
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads * head, config.num_key_value_heads * head
    # per token: two norms' inputs and outputs, projections before and after RoPE, three MLP activations
    layer = 4 * config.hidden_size + 3 * heads + 4 * kv_heads + 3 * config.intermediate_size
    kept = config.hidden_size + 2 * kv_heads if recipe.gradient_checkpointing else layer
    layers = config.num_hidden_layers * kept + (layer if recipe.gradient_checkpointing else 0)
    # logits, and their gradient in float32
    return int(tokens * layers * width + answers * config.vocab_size * (width + 4))


def _lora_parameters(model: torch.nn.Module, recipe: Recipe) -> int:
    lora = recipe.lora
    assert lora is not None
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    if lora.targets == "all-linear":
        return sum(_added(lora.rank, layer) for name, layer in linear.items() if name.rpartition(".")[2] != "lm_head")
    # as PEFT compares: a whole name, or its end after a dot
    tuned = {target: [name for name in linear if f".{name}".endswith(f".{target}")] for target in lora.targets}
    unknown = next((target for target, names in tuned.items() if not names), None)
    if unknown is not None:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise RecipeError(f"lora.targets: the model has no linear layer `{unknown}`; it has {listed(known)}")
    return sum(_added(lora.rank, linear[name]) for name in {name for names in tuned.values() for name in names})


def _added(rank: int, layer: torch.nn.Linear) -> int:
    return rank * (layer.in_features + layer.out_features)
