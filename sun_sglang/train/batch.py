"""Collation: left-padded prompts, right-padded answers, positions from the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch

from sun_sglang.train.examples import Encoded

IGNORED = -100


def collate(examples: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Pad examples to a batch in which every prompt ends where its answer starts.

    Args:
        examples: each with at least one token in its prompt and in its answer.
        pad: token id that fills prompts; it is masked.

    Returns:
        The arguments of `TwoModule.forward`: `prompt_ids` and `prompt_mask`, [batch, prompt], padded on the left, and
        `labels`, [batch, answer], padded on the right with -100.
    """
    assert examples
    assert all(e.prompt and e.answer for e in examples)
    longest = max(len(e.answer) for e in examples)
    prompt_ids, prompt_mask = pad_prompts([e.prompt for e in examples], pad)
    labels = torch.tensor([list(e.answer) + [IGNORED] * (longest - len(e.answer)) for e in examples])
    return {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "labels": labels}


def pad_prompts(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left, and their mask: both [batch, prompt]."""
    widest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (widest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (widest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of every token, counted over the mask's ones: [batch, length] -> [batch, length]."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def bucketed(examples: Iterator[Encoded], tokens: int, pool: int, seed: int) -> Iterator[list[Encoded]]:
    """Batches of examples of like length, of about `tokens` tokens each, in random order.

    Args:
        examples: endless.
        tokens: padded tokens a batch.
        pool: examples that are sorted together.
        seed: of the order.
    """
    rng = Random(f"bucketed/{seed}")
    while True:
        drawn = sorted((next(examples) for _ in range(pool)), key=_length)
        batches, current = [], list[Encoded]()
        for example in drawn:
            if current and (len(current) + 1) * _length(example) > tokens:
                batches.append(current)
                current = []
            current.append(example)
        batches.append(current)
        rng.shuffle(batches)
        yield from batches


def _length(example: Encoded) -> int:
    return len(example.prompt) + len(example.answer)
