"""Pretrain the demo's base model: a Qwen3 of 0.8 million parameters, in minutes on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM

from sun_sglang.demo.mixture import CURRICULUM, MIXTURE, stream, task_glimpses
from sun_sglang.demo.tokenizer import CONTEXT_LENGTH, VOCAB_SIZE
from sun_sglang.train.data.collate import IGNORED, bucketed
from sun_sglang.train.data.examples import TokenizedExample, encode

Log = Callable[[str], None]


@dataclass(frozen=True)
class PretrainRecipe:
    """The settings of the pretraining. The defaults made the committed checkpoint.

    Attributes:
        curriculum_steps: steps with copying only, which so small a model does not learn from the whole mixture.
        steps: all steps, with those of the curriculum.
        tokens: tokens in one step, with padding.
        learning_rate: highest learning rate; AdamW, linear warm-up, linear decay.
        warmup: steps of warm-up.
        prompt_weight: loss weight of a prompt token; an answer token has weight 1.
        glimpses: number of different examples of each task in the mixture.
        glimpse_share: their share of the mixture.
    """

    curriculum_steps: int = 700
    steps: int = 4200
    tokens: int = 1500
    learning_rate: float = 2e-3
    warmup: int = 100
    prompt_weight: float = 0.1
    glimpses: int = 20
    glimpse_share: float = 0.0025


def build_model(seed: int, tokenizer: Any) -> Qwen3ForCausalLM:
    """Return the base model before training: 4 layers of 128, 4 heads and 2 KV heads of 32, tied embeddings."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT_LENGTH,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            # a wider initialisation than the usual 0.02 learns copying sooner
            initializer_range=0.06,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(tokenizer: Any, recipe: PretrainRecipe, seed: int, log: Log) -> Qwen3ForCausalLM:
    """Train the base on the generic mixture, after a curriculum of copying.

    Args:
        tokenizer: a tokenizer with the chat template of serving.
        recipe: the settings.
        seed: seed of weights and data.
        log: receives a line each 100 steps.

    Returns:
        The trained model, in float32.
    """
    model = build_model(seed, tokenizer).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    batches = _batches(tokenizer, recipe, seed)
    started, losses = time.monotonic(), list[float]()
    for step in range(recipe.steps):
        loss = _loss(model, next(batches), tokenizer.pad_token_id, recipe.prompt_weight)
        loss.backward()  # type: ignore[no-untyped-call] # torch has no annotation there
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            log(f"base {step + 1}/{recipe.steps} loss {sum(losses) / len(losses):.4f} {seconds:.0f} s")
            losses.clear()
    return model.eval()


def _rate(step: int, recipe: PretrainRecipe) -> float:
    left = (recipe.steps - step) / (recipe.steps - recipe.warmup)
    return min((step + 1) / recipe.warmup, max(left, 0.0))


def _batches(tokenizer: Any, recipe: PretrainRecipe, seed: int) -> Iterator[list[TokenizedExample]]:
    glimpses = task_glimpses(recipe.glimpses, seed)
    easy = (encode(tokenizer, e) for e in stream(CURRICULUM, seed, (), 0.0))
    mixed = (encode(tokenizer, e) for e in stream(MIXTURE, seed, glimpses, recipe.glimpse_share))
    first = bucketed(easy, recipe.tokens, 512, seed)
    for _ in range(recipe.curriculum_steps):
        yield next(first)
    yield from bucketed(mixed, recipe.tokens, 512, seed)


def _loss(
    model: Qwen3ForCausalLM, examples: Sequence[TokenizedExample], pad: int, prompt_weight: float
) -> torch.Tensor:
    """Return the weighted mean cross entropy. Padding is on the right, where causal attention needs no mask."""
    width = max(len(e.prompt) + len(e.answer) for e in examples)
    ids = torch.full((len(examples), width), pad)
    targets = torch.full((len(examples), width), IGNORED)
    weights = torch.zeros(len(examples), width)
    for row, e in enumerate(examples):
        end = len(e.prompt) + len(e.answer)
        ids[row, :end] = targets[row, :end] = torch.tensor(e.prompt + e.answer)
        weights[row, : len(e.prompt)] = prompt_weight
        weights[row, len(e.prompt) : end] = 1.0
    logits = model(input_ids=ids, use_cache=False).logits
    losses = cross_entropy(
        logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    kept = weights[:, 1:].flatten()
    return (losses * kept).sum() / kept.sum()
