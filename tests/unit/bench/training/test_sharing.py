"""Mixed caches of the sharing-ratio figures: nothing shared is the decode module alone, all is the plain handoff."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from sun_sglang.bench.figures.accuracy_table import spread
from sun_sglang.bench.training.sharing import MIXES
from sun_sglang.train.reference import greedy

PROMPTS = [[Random(i).randrange(320) for _ in range(4 + 3 * i)] for i in range(4)]


@pytest.mark.parametrize("axis", MIXES)
def test_the_ends_of_a_figure_are_the_plain_systems(new_model: Callable[[int], Any], axis: str) -> None:
    prefill, decode = new_model(1), new_model(2)

    def answers(share: float) -> list[tuple[int, ...]]:
        mixed = greedy(prefill, decode, PROMPTS, max_new_tokens=8, first_token="decode", mix=MIXES[axis](share))
        return [g.tokens for g in mixed]

    alone = greedy(decode, decode, PROMPTS, max_new_tokens=8)
    handed = greedy(prefill, decode, PROMPTS, max_new_tokens=8, first_token="decode")
    assert answers(0.0) == [g.tokens for g in alone]
    assert answers(1.0) == [g.tokens for g in handed]
    assert answers(0.0) != answers(0.5) != answers(1.0)


@pytest.mark.parametrize("axis", MIXES)
def test_the_first_token_of_the_prefill_module_is_made_before_mixing(
    new_model: Callable[[int], Any], axis: str
) -> None:
    prefill, decode = new_model(1), new_model(2)
    mixed = greedy(prefill, decode, PROMPTS, max_new_tokens=8, mix=MIXES[axis](0.0))
    plain = greedy(prefill, decode, PROMPTS, max_new_tokens=8)
    assert [g.tokens[0] for g in mixed] == [g.tokens[0] for g in plain]
    assert [g.tokens for g in mixed] != [g.tokens for g in plain]


def test_one_seed_has_no_spread() -> None:
    assert spread([97.0]) == "97.0"
    assert spread([96.0, 98.0]) == "97.0 ± 1.4"
