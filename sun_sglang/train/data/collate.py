"""Collate examples into batches: prompts padded on the left, answers on the right, positions from the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch
from torch.utils.data import Sampler

from sun_sglang.train.data.examples import TokenizedExample

IGNORED = -100


def collate(examples: Sequence[TokenizedExample], pad: int) -> dict[str, torch.Tensor]:
    """Pad examples to a batch in which every prompt ends where its answer starts.

    Args:
        examples: each with at least one token in its prompt and in its answer.
        pad: token id that fills prompts; the mask hides it.

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
    """Return prompts padded on the left, and their mask: both [batch, prompt]."""
    widest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (widest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (widest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the position of every token, counted over the ones of the mask: [batch, length] -> [batch, length]."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def bucketed(
    examples: Iterator[TokenizedExample], tokens: int, pool: int, seed: int
) -> Iterator[list[TokenizedExample]]:
    """Yield batches of examples of similar length, of at most about `tokens` tokens each, in random order.

    Args:
        examples: an endless iterator.
        tokens: tokens in a batch, with padding.
        pool: number of examples that are sorted together.
        seed: seed of the order.
    """
    rng = Random(f"bucketed/{seed}")
    while True:
        drawn = sorted((next(examples) for _ in range(pool)), key=_length)
        batches, current = [], list[TokenizedExample]()
        for example in drawn:
            if current and (len(current) + 1) * _length(example) > tokens:
                batches.append(current)
                current = []
            current.append(example)
        batches.append(current)
        rng.shuffle(batches)
        yield from batches


class LengthGrouped(Sampler[int]):
    """Every index once, so that consecutive batches have examples of similar length; one order for one seed.

    Indices are shuffled, sorted by length inside pools of `pool` batches, and the batches of a pool are shuffled. In
    `transformers`' LengthGroupedSampler the batches of a pool go from long to short; here the length of an example does
    not determine its place in the schedule.

    Args:
        lengths: tokens of each example.
        batch: examples in one batch.
        seed: seed of the order.
        pool: batches in one pool.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, pool: int = 50) -> None:
        self._lengths, self._batch, self._seed, self._pool = lengths, batch, seed, pool

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = Random(f"grouped/{self._seed}")
        order = list(range(len(self)))
        rng.shuffle(order)
        size = self._batch * self._pool
        for start in range(0, len(order), size):
            pool = sorted(order[start : start + size], key=self._lengths.__getitem__)
            batches = [pool[i : i + self._batch] for i in range(0, len(pool), self._batch)]
            # a short batch stays last: elsewhere it would shift the borders of the batches after it
            tail = batches.pop() if len(batches[-1]) < self._batch else []
            rng.shuffle(batches)
            yield from (index for batch in [*batches, tail] for index in batch)


def _length(example: TokenizedExample) -> int:
    return len(example.prompt) + len(example.answer)
