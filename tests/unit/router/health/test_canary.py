from __future__ import annotations

import random

import orjson
import pytest

from sun_sglang.router.health.canary import OUTPUT_TOKENS, PROMPT_TOKENS, canary_fault, is_same_fault, make_canary


def test_canaries_differ_and_an_answer_of_the_wrong_length_is_none() -> None:
    rng = random.Random(0)
    bodies = [orjson.loads(make_canary(300, rng).shared + b"}") for _ in range(20)]
    assert len({tuple(b["input_ids"]) for b in bodies}) == 20
    assert all(0 <= i < 300 for b in bodies for i in b["input_ids"])
    good = {"meta_info": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": OUTPUT_TOKENS}}
    assert canary_fault(orjson.dumps(good)) == ""
    for wrong in ({"meta_info": {**good["meta_info"], "completion_tokens": 1}}, {}, [], {"error": {"message": "m"}}):
        assert canary_fault(orjson.dumps(wrong))
    assert canary_fault(b"nothing")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("transfer of room 8812 failed: 0xdeadbee1", "transfer of room 17 failed: 0xab12", True),
        ("the decode worker did not answer", "the prefill worker did not answer", False),
        ("math-0 is gone", "math-0 is full", False),
    ],
)
def test_canary_faults_are_the_same_where_numbers_alone_differ(one: str, other: str, same: bool) -> None:
    assert is_same_fault(one, other) is same
