from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from sun_sglang.router.health.task_weights.effect_canary import make_effect_canary, prompt_logprobs, prompt_of
from sun_sglang.router.protocol.worker_replies import BadReplyError
from tests.unit.router.fake_adapters import TOKENS, fingerprint
from tests.unit.router.weights_refs import adapter

ROWS = [[None, 1, None], [-0.5, 2, None], [-3, 3, None]]


def reply(**meta: Any) -> bytes:
    return orjson.dumps({"meta_info": {"input_token_logprobs": ROWS, **meta}})


def test_log_probabilities_are_those_of_each_token_but_the_first() -> None:
    assert prompt_logprobs(reply(), (1, 2, 3)) == (-0.5, -3.0)


@pytest.mark.parametrize(
    ("body", "tokens", "why"),
    [
        (b"no JSON", (1, 2, 3), "has no log probabilities: no JSON"),
        (b"[]", (1, 2, 3), "has no log probabilities"),
        (reply(input_token_logprobs=None), (1, 2, 3), "has no log probabilities"),
        (reply(), (1, 2), "log probabilities of 3 of 2 tokens"),
        (reply(), (1, 2, 4), "of another prompt"),
        (reply(input_token_logprobs=[*ROWS[:2], 7]), (1, 2, 3), "of another prompt"),
        (reply(input_token_logprobs=[*ROWS[:2], [None, 3, None]]), (1, 2, 3), "no numbers"),
        (reply(input_token_logprobs=[*ROWS[:2], ["x", 3, None]]), (1, 2, 3), "no numbers"),
        # the sum of their squares is over every float
        (reply(input_token_logprobs=[ROWS[0], *([-1e154, i, None] for i in (2, 3, 4))]), (1, 2, 3, 4), "no numbers"),
        (reply(input_token_logprobs=[*ROWS[:2], [True, 3, None]]), (1, 2, 3), "no numbers"),
    ],
)
def test_reply_without_the_log_probabilities_of_the_prompt_is_refused(
    body: bytes, tokens: tuple[int, ...], why: str
) -> None:
    with pytest.raises(BadReplyError, match=why):
        prompt_logprobs(body, tokens)


def test_prompt_of_an_adapter_is_that_of_its_fingerprint_or_one_for_all_others() -> None:
    assert prompt_of(adapter(1, fingerprint("sun-a")), 100) == TOKENS
    assert prompt_of(adapter(1), 100) == prompt_of(adapter(2), 100)
    assert all(0 <= token < 100 for token in prompt_of(adapter(1), 100))


def test_canaries_with_one_prompt_have_namespaces_of_their_own() -> None:
    one, other = (make_effect_canary(TOKENS, random.Random(seed)) for seed in range(2))
    assert one.shared == other.shared
    assert one.cache_salt != other.cache_salt
    assert one.extra_key == "sun-canary"
