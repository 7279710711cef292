"""Exact match of greedy answers on held-out questions, without servers, with its confidence interval."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sun_sglang.contracts.scheme import Side
from sun_sglang.evaluation.intervals import wilson
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.reference import KvMix, greedy

_BATCH = 100


@dataclass(frozen=True)
class ExactMatch:
    """The number of answers that are right, token for token.

    Attributes:
        correct: number of right answers.
        total: number of questions.
        percent: right answers in percent.
        low: lower end of the 95 % interval, in percent.
        high: upper end of the 95 % interval, in percent.
    """

    correct: int
    total: int
    percent: float
    low: float
    high: float


def exact_match(correct: int, total: int) -> ExactMatch:
    """Return the percentage with Wilson's 95 % score interval (Wilson 1927), rounded to a tenth of a point."""
    low, high = wilson(correct, total)
    return ExactMatch(correct, total, round(100 * correct / total, 1), round(100 * low, 1), round(100 * high, 1))


def evaluate(
    prefill: Any,
    decode: Any,
    examples: Sequence[TokenizedExample],
    end_token: int,
    first_token: Side = "prefill",
    mix: KvMix | None = None,
    *,
    further_ends: Collection[int] = (),
) -> ExactMatch:
    """Return the exact match of a prefill and a decode module.

    Args:
        prefill: causal LM that runs the prompts.
        decode: causal LM that continues; may be the same object.
        examples: questions with their right answer.
        end_token: token id that ends an answer.
        first_token: the side that makes the first token.
        mix: changes the KV cache before the decode module reads it, as in `greedy`.
        further_ends: other token ids that end an answer, such as those of a chat template.
    """
    correct = 0
    by_length = sorted(examples, key=lambda e: len(e.prompt))
    for start in range(0, len(by_length), _BATCH):
        part = by_length[start : start + _BATCH]
        longest = max(len(e.answer) for e in part)
        answers = greedy(
            prefill,
            decode,
            [e.prompt for e in part],
            # a longer answer is wrong in any case
            max_new_tokens=longest,
            end_tokens={end_token, *further_ends},
            first_token=first_token,
            mix=mix,
        )
        correct += sum(answer.tokens == e.answer for answer, e in zip(answers, part, strict=True))
    return exact_match(correct, len(examples))
