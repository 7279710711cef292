"""Pack several examples into one row without padding; no example attends to another.

A row has all prompts, one after the other, and all answers, one after the other. The prefill module runs all prompts at
once, and the decode module all answers at once on the KV cache of all prompts. A token attends to the tokens of its
example up to itself, and positions count from the start of each example, so the loss equals that of the separate
examples.
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
    """Return the arguments of `TwoModule.forward` for a packed row.

    Returns:
        `prompt_ids` and `labels`, [1, tokens]: all prompts and all answers, one after the other. `prompt_mask` and
        `answer_mask`, of the same shapes: the example of each token, from 1.
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
    """Rows of example indices: every index once in an epoch, in an order that depends only on seed and epoch.

    A step has exactly `batch` examples, as without packing; the last step of an epoch has the remaining ones. They are
    spread over `per_step` rows of at most `tokens` tokens. `per_step` is the least number that is enough for every step
    and a multiple of `processes`, so that all processes run the same number of rows.

    Args:
        lengths: tokens of each example; at most `tokens`.
        batch: examples in a step, over all processes; a multiple of `processes`.
        tokens: most tokens of a row.
        processes: number of processes that share the rows of a step.
        seed: seed of the order.
        epochs: number of epochs.
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
        """Select the order of an epoch, from 0. accelerate calls this."""
        self._epoch = epoch

    def _steps(self, epoch: int) -> list[list[int]]:
        order = list(range(len(self._lengths)))
        Random(f"packed/{self._seed}/{epoch}").shuffle(order)
        return [order[i : i + self._batch] for i in range(0, len(order), self._batch)]


def spread(indices: Sequence[int], lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Return indices in at most `rows` rows, the longest as short as possible, with similar lengths in one row.

    The gradients of a step do not depend on which examples share a row, and attention pads to the longest of a row.

    Args:
        indices: indices of the examples of a step.
        lengths: tokens of each example, by index.
        rows: most rows.
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
        # fewer rows would be enough, but every process needs one
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
