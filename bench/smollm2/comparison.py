"""Compare the tasks' modules with the base and with each other: validation loss, and greedy answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.contracts.scheme import SCHEMES
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.data.collate import IGNORED, collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.reference import greedy

_BATCH = 8


@torch.inference_mode()
def validation_loss(prefill: Any, decode: Any, examples: Sequence[TokenizedExample]) -> float:
    """Return the mean loss of the answer tokens as served: one module runs the prompts, the other the answers.

    Args:
        prefill: the module that runs the prompts.
        decode: the module that runs the answers; another object.
        examples: the examples.
    """
    module = TwoModule(prefill, decode, SCHEMES["prefill_only"]).eval()
    total, tokens = 0.0, 0
    for start in range(0, len(examples), _BATCH):
        batch = collate(examples[start : start + _BATCH], pad=0)
        count = int((batch["labels"] != IGNORED).sum())
        total += float(module(**batch).loss) * count
        tokens += count
    return total / tokens


def answers_of(model: Path, decoder: Path | None, prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Return greedy answers, never ended early.

    Args:
        model: the module that runs the prompts.
        decoder: the module that runs the answers; None for the same one.
        prompts: token ids.
        length: tokens of an answer.
    """
    prefill = load_model(model)
    decode = prefill if decoder is None else load_model(decoder)
    return [list(found.tokens) for found in greedy(prefill, decode, prompts, max_new_tokens=length)]


def require_different(answers: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, int]:
    """Return for each pair of modules how many of their answers to the same prompts differ.

    Args:
        answers: the answers of each module, by its name.

    Raises:
        ModelError: two modules answer all prompts alike.
    """
    differ = {
        f"{a}, {b}": sum(x != y for x, y in zip(answers[a], answers[b], strict=True))
        for a, b in combinations(answers, 2)
    }
    alike = [pair for pair, count in differ.items() if count == 0]
    if alike:
        raise ModelError(f"{alike[0]}: both answer every prompt alike; tune longer or with a higher learning rate")
    return differ
