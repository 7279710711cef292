"""Packing: several examples in one row without padding, none of which sees another.

A row is the prompts one after the other, and the answers one after the other: prompts run through the prefill module
at once, answers through the decode module at once, on the KV cache of all prompts. A token attends to its own example
up to itself, and positions count from each example's start, so the loss is that of the examples alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch.utils.data import Sampler

from sun_sglang.train.data.examples import TokenizedExample


@dataclass(frozen=True)
class Row:
    """Examples that share a row."""

    examples: tuple[TokenizedExample, ...]


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


class PackedRows(Sampler[tuple[int, ...]]):
    """Rows of example indices: every index once an epoch, in an order that depends on the seed and the epoch alone.

    A step holds exactly `batch` examples, as without packing (the last one of an epoch what is left). They are spread
    over `per_step` rows, none longer than `tokens`; `per_step` is the least that does for every step, and a multiple of
    `processes`, so that all processes run the same number of rows.

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
    """Indices over at most `rows` rows whose longest is as short as can be; examples of a row are of like length.

    Which examples of a step share a row changes nothing of the step, and attention pads to the longest of a row.
    """
    ordered = sorted(indices, key=lambda i: (lengths[i], i))
    low, high = max(lengths[i] for i in ordered), sum(lengths[i] for i in ordered)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(ordered, lengths, middle)) <= rows:
            high = middle
        else:
            low = middle + 1
    parts = _filled(ordered, lengths, low)
    while len(parts) < min(rows, len(ordered)):
        # fewer were enough, but every process needs its own
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        part = parts.pop(longest)
        parts[longest:longest] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts


def _filled(ordered: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    parts, room = list[list[int]](), 0
    for index in ordered:
        if lengths[index] > room:
            parts.append([])
            room = tokens
        parts[-1].append(index)
        room -= lengths[index]
    return parts


def _rows_needed(lengths: Sequence[int], tokens: int, processes: int) -> int:
    rows = len(_filled(sorted(range(len(lengths)), key=lengths.__getitem__), lengths, tokens))
    return -(-rows // processes) * processes
