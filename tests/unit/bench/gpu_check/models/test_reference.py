"""The expected answers: what is accepted, rejected and counted as a tie."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.gpu_check.models.reference import AnswerChecker, Reference, _load
from sun_sglang.bench.gpu_check.stages.exactness import random_prompt
from sun_sglang.train.reference import greedy

ANSWER = 24
Sample = tuple[list[int], tuple[int, ...]]


class MadeUp(Reference):
    """A reference with given logits: two tokens of an answer, a vocabulary of four, and noise of 0.1 and of 0.2."""

    def _logits(self, prompt: Sequence[int], answer: Sequence[int], dtype: str) -> Any:
        exact = torch.tensor([[0.0, 5.0, 4.7, 1.0], [9.0, 0.0, 7.5, 8.1]])
        noise = torch.tensor([[0.1, -0.1, 0.1, -0.1], [0.2, -0.2, 0.2, -0.2]])
        return exact if dtype == "float32" else exact + noise


def made_up(dtype: str = "bfloat16") -> Reference:
    return MadeUp(Path("a"), Path("base"), "cpu", dtype)


@pytest.fixture(scope="module")
def served(llamas: dict[str, Path]) -> list[Sample]:
    """Return prompts with transformers' greedy answers in bfloat16, prefilled with `a` and decoded with `base`."""
    rng = random.Random(1)
    prompts = [random_prompt(rng, 60) for _ in range(4)]
    prefill, decode = (_load(llamas[name], "cpu", "bfloat16") for name in ("a", "base"))
    return [(prompt, greedy(prefill, decode, [prompt], max_new_tokens=ANSWER)[0].tokens) for prompt in prompts]


def reference(llamas: dict[str, Path], prefill: str, decode: str, *, stepwise: bool = False) -> Reference:
    return Reference(llamas[prefill], llamas[decode], "cpu", "bfloat16", stepwise)


def test_bfloat16_answers_of_transformers_are_accepted(llamas: dict[str, Path], served: list[Sample]) -> None:
    for prompt, answer in served:
        judgement = reference(llamas, "a", "base").judge(prompt, answer)
        assert (judgement.wrong, judgement.gap, judgement.tokens) == (None, 0.0, ANSWER)
        assert judgement.noise > 1e-3, "bfloat16 moves the logits"


@pytest.mark.parametrize(("prefill", "decode"), [("b", "base"), ("base", "base"), ("a", "b"), ("a", "a")])
def test_answers_of_a_wrong_module_are_rejected(
    llamas: dict[str, Path], served: list[Sample], prefill: str, decode: str
) -> None:
    for prompt, answer in served:
        judgement = reference(llamas, prefill, decode).judge(prompt, answer)
        assert judgement.wrong is not None
        assert judgement.gap > 5


def test_one_wrong_token_is_found_at_its_index(llamas: dict[str, Path], served: list[Sample]) -> None:
    prompt, answer = served[0]
    changed = [*answer[:9], (answer[9] + 1) % 256, *answer[10:]]
    assert reference(llamas, "a", "base").judge(prompt, changed).wrong == 9


def test_answer_fed_token_by_token_is_judged_as_in_one_piece(llamas: dict[str, Path], served: list[Sample]) -> None:
    prompt, answer = served[0]
    pieces, whole = (reference(llamas, "a", "base", stepwise=step).judge(prompt, answer) for step in (True, False))
    assert (pieces.wrong, pieces.tokens) == (whole.wrong, whole.tokens) == (None, ANSWER)


def test_answer_of_one_token_is_judged(llamas: dict[str, Path], served: list[Sample]) -> None:
    prompt, answer = served[0]
    assert reference(llamas, "a", "base").judge(prompt, answer[:1])[:3] == (1, 0, None)


@pytest.mark.parametrize(
    ("answer", "ties", "wrong"),
    [([1, 0], 0, None), ([2, 0], 1, None), ([2, 3], 2, None), ([1, 2], 0, 1), ([3, 0], 0, 0), ([0, 1], 0, 0)],
)
def test_token_within_five_times_its_noise_is_a_tie(answer: list[int], ties: int, wrong: int | None) -> None:
    judgement = made_up().judge([7], answer)
    assert (judgement.ties, judgement.wrong) == (ties, wrong)
    assert judgement.noise == pytest.approx(0.2)


def test_gap_of_a_wrong_token_is_in_units_of_its_own_noise() -> None:
    assert made_up().judge([7], [1, 2]).gap == pytest.approx(1.5 / 0.2, rel=1e-5)


def test_float32_worker_may_differ_by_rounding_alone() -> None:
    assert made_up("float32").judge([7], [1, 0]).wrong is None
    assert made_up("float32").judge([7], [2, 0]).wrong == 0


def test_tally_adds_up_and_names_a_wrong_answer() -> None:
    checker = AnswerChecker(made_up())
    checker.check([7], [1, 0], "first")
    checker.check([7], [2, 3], "second")
    with pytest.raises(CheckError, match=r"third: token 1 of 2 is wrong: .* 7\.5 times .* \(prompt of 1 tokens\)"):
        checker.check([7], [1, 2], "third")
    assert checker.counts() == {"answers": 2, "tokens": 4, "ties": 2, "logit_noise": 0.2}
