from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from sun_sglang.contracts.scheme import SCHEMES, Side
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.reference import greedy

NewModel = Callable[[int], Any]


def prompts(seed: int, count: int = 6) -> list[list[int]]:
    rng = Random(seed)
    return [[rng.randrange(320) for _ in range(rng.randint(2, 20))] for _ in range(count)]


def test_with_one_module_it_is_transformers_own_generate(new_model: NewModel) -> None:
    model = new_model(3).eval()
    for prompt in prompts(0):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=257
        )
        (answer,) = greedy(model, model, [prompt], max_new_tokens=12)
        assert list(answer.tokens) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("first_token", ["prefill", "decode"])
def test_it_takes_the_best_token_of_the_loss_that_is_trained(new_model: NewModel, first_token: Side) -> None:
    prefill, decode = new_model(1), new_model(2)
    module = TwoModule(prefill, decode, SCHEMES["prefill_only"].with_first_token(first_token)).eval()
    for prompt in prompts(1):
        (answer,) = greedy(prefill, decode, [prompt], max_new_tokens=9, first_token=first_token)
        with torch.inference_mode():
            logits = module(**collate([TokenizedExample(tuple(prompt), answer.tokens)], 257)).logits[0]
        best = logits.topk(2)
        assert best.indices[:, 0].tolist() == list(answer.tokens)
        expected = (best.values[:, 0] - best.values[:, 1]).tolist()
        assert answer.margins == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_together_is_as_alone(new_model: NewModel) -> None:
    prefill, decode = new_model(1), new_model(2)
    together = greedy(prefill, decode, prompts(2), max_new_tokens=10)
    for prompt, answer in zip(prompts(2), together, strict=True):
        (alone,) = greedy(prefill, decode, [prompt], max_new_tokens=10)
        assert alone.tokens == answer.tokens


def test_it_stops_after_the_end_token(new_model: NewModel) -> None:
    model = new_model(4)
    (free,) = greedy(model, model, prompts(3)[:1], max_new_tokens=10)
    end = free.tokens[4]
    (ended,) = greedy(model, model, prompts(3)[:1], max_new_tokens=10, end_tokens={end})
    assert ended.tokens == free.tokens[: free.tokens.index(end) + 1]
