"""Packing: several examples in one row without padding, none of which sees another.

A row is the prompts one after the other, and the answers one after the other: prompts run through the prefill module
at once, answers through the decode module at once, on the KV cache of all prompts. The attention mask lets a token see
its own example up to itself, and positions count from each example's start, so the loss is that of the examples alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch.utils.data import Sampler

from sun_sglang.train.examples import Encoded


@dataclass(frozen=True)
class Row:
    """Examples that share a row."""

    examples: tuple[Encoded, ...]


def collate_row(row: Row) -> dict[str, torch.Tensor]:
    """The arguments of `TwoModule.forward` for a packed row.

    Returns:
        `prompt_ids` and `labels`, [1, tokens], the prompts and the answers one after the other; `prompt_mask` and
        `answer_mask` of the same shapes, which example a token is of, counted from 1.
    """
    assert row.examples
    assert all(e.prompt and e.answer for e in row.examples)
    prompts, answers = ([getattr(e, part) for e in row.examples] for part in ("prompt", "answer"))
    return {
        "prompt_ids": torch.tensor([[token for prompt in prompts for token in prompt]]),
        "prompt_mask": torch.tensor([[i for i, prompt in enumerate(prompts, 1) for _ in prompt]]),
        "labels": torch.tensor([[token for answer in answers for token in answer]]),
        "answer_mask": torch.tensor([[i for i, answer in enumerate(answers, 1) for _ in answer]]),
    }


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a packed row are: columns are counted over the prompts, then the answers.

    Attributes:
        owner: [columns], the example of each token.
        where: [columns], its position in that example.
        prompt_ends: [examples], the column of each prompt's last token.
        prompt_rest: the other columns of prompts.
        answer_starts: [examples], the column of each answer's first token.
        answer_rest: the other columns of answers.
        answer_inputs: columns of answers that are followed by another of the same answer.
    """

    owner: torch.Tensor
    where: torch.Tensor
    prompt_ends: torch.Tensor
    prompt_rest: torch.Tensor
    answer_starts: torch.Tensor
    answer_rest: torch.Tensor
    answer_inputs: torch.Tensor

    def mask(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Which columns each query column sees: [1, 1, queries, keys], True where it does."""
        same = self.owner[queries, None] == self.owner[keys]
        return (same & (self.where[keys] <= self.where[queries, None]))[None, None]


def lay_out(prompt_owner: torch.Tensor, answer_owner: torch.Tensor) -> Layout:
    """The layout of a row whose prompts and answers belong to the examples given: both [tokens], rising from 1."""
    prompts = len(prompt_owner)
    lengths = torch.bincount(prompt_owner)
    where = torch.cat([_rank(prompt_owner), _rank(answer_owner) + lengths[answer_owner]])
    starts = _rank(answer_owner) == 0
    ends, answer_ends = _last(prompt_owner), _last(answer_owner)
    return Layout(
        torch.cat([prompt_owner, answer_owner]),
        where,
        ends.nonzero()[:, 0],
        (~ends).nonzero()[:, 0],
        starts.nonzero()[:, 0] + prompts,
        (~starts).nonzero()[:, 0] + prompts,
        (~answer_ends).nonzero()[:, 0] + prompts,
    )


def mask_for(module: Any, seen: torch.Tensor) -> torch.Tensor:
    """A mask of `Layout.mask` in the form that the module's attention takes.

    `sdpa` takes it as it is. `eager` adds its mask to the scores, and would add a boolean one silently.
    """
    kind = module.config._attn_implementation
    assert kind in ("sdpa", "eager"), f"packing needs sdpa or eager attention, not {kind}"
    if kind == "sdpa":
        return seen
    return torch.zeros_like(seen, dtype=module.dtype).masked_fill(~seen, torch.finfo(module.dtype).min)


class PackedRows(Sampler[tuple[int, ...]]):
    """Rows of example indices: every index once an epoch, in an order that depends on the seed and the epoch alone.

    A step holds exactly `batch` examples, as without packing (the last one of an epoch what is left). They are spread
    over `per_step` rows so that rows are of like length and none is longer than `tokens`; `per_step` is the least that
    does for every step, a multiple of `processes`, so that all processes run the same number of rows.

    Args:
        lengths: of the examples, in tokens; none longer than `tokens`.
        batch: examples a step, over all processes; a multiple of `processes`.
        tokens: longest row.
        processes: that share a step's rows.
        seed: of the order.
        epochs: that will be asked for.
    """

    def __init__(
        self, lengths: Sequence[int], batch: int, tokens: int, processes: int, seed: int, epochs: int = 1
    ) -> None:
        assert max(lengths) <= tokens
        assert batch % processes == 0
        assert epochs >= 1
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0
        steps = [step for epoch in range(epochs) for step in self._steps(epoch)]
        whole = [_rows_needed([lengths[i] for i in step], tokens, processes) for step in steps if len(step) == batch]
        short = [_rows_needed([lengths[i] for i in step], tokens, processes) for step in steps if len(step) < batch]
        self.per_step = max(whole + short)
        self._last = max(short, default=0)

    def __len__(self) -> int:
        left = len(self._lengths) % self._batch
        return len(self._lengths) // self._batch * self.per_step + min(self._last, left)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for step in self._steps(self._epoch):
            rows = self.per_step if len(step) == self._batch else self._last
            yield from map(tuple, spread(step, self._lengths, rows))

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch, counted from 0; accelerate calls this."""
        self._epoch = epoch

    def _steps(self, epoch: int) -> list[list[int]]:
        order = list(range(len(self._lengths)))
        Random(f"packed/{self._seed}/{epoch}").shuffle(order)
        return [order[i : i + self._batch] for i in range(0, len(order), self._batch)]


def spread(indices: Sequence[int], lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices over rows of like total length: longest first, each to the row that holds least; no row is empty."""
    parts: list[list[int]] = [[] for _ in range(min(rows, len(indices)))]
    totals = [0] * len(parts)
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        row = totals.index(min(totals))
        parts[row].append(index)
        totals[row] += lengths[index]
    return parts


def _rows_needed(lengths: Sequence[int], tokens: int, processes: int) -> int:
    rows = processes * -(-sum(lengths) // (tokens * processes))
    while max(sum(lengths[i] for i in row) for row in spread(range(len(lengths)), lengths, rows)) > tokens:
        rows += processes
    return rows


def _rank(owner: torch.Tensor) -> torch.Tensor:
    """How many tokens of the same owner come before each: [tokens] -> [tokens]."""
    return torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)


def _last(owner: torch.Tensor) -> torch.Tensor:
    """Whether each is the last token of its owner: [tokens] -> [tokens]."""
    return torch.cat([owner[1:] != owner[:-1], owner.new_ones(1, dtype=torch.bool)])
