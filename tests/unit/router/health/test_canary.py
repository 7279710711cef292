from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from sun_sglang.contracts.scheme import Side
from sun_sglang.router.health.canary import OUTPUT_TOKENS, PROMPT_TOKENS, canary_fault, is_same_fault, make_canary

GOOD = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": OUTPUT_TOKENS}


def reply(ids: list[int], **meta: Any) -> bytes:
    return orjson.dumps({"output_ids": ids, "meta_info": {**GOOD, **meta}})


def test_canaries_differ_and_an_answer_of_the_wrong_length_is_none() -> None:
    rng = random.Random(0)
    bodies = [orjson.loads(make_canary(300, rng).shared + b"}") for _ in range(20)]
    assert len({tuple(b["input_ids"]) for b in bodies}) == 20
    assert all(0 <= i < 300 for b in bodies for i in b["input_ids"])
    prefill = reply([7])
    assert canary_fault(reply([7, 8, 9]), prefill, "prefill") == ""
    for wrong in ({"meta_info": {**GOOD, "completion_tokens": 1}}, {}, [], {"error": {"message": "m"}}):
        assert canary_fault(orjson.dumps(wrong), prefill, "prefill")
    assert canary_fault(b"nothing", prefill, "prefill")


@pytest.mark.parametrize(
    ("first_token", "handed", "computed", "fault"),
    [
        ("prefill", 7, PROMPT_TOKENS, ""),
        ("prefill", 6, PROMPT_TOKENS, "its first token is 7, and the prefill worker handed 6 over"),
        ("prefill", 7, PROMPT_TOKENS - 1, f"computed {PROMPT_TOKENS - 1} of {PROMPT_TOKENS} prompt tokens"),
        ("decode", 6, PROMPT_TOKENS - 1, ""),
        ("decode", 7, PROMPT_TOKENS - 1, ""),  # another module may make the same token
        ("decode", 6, PROMPT_TOKENS, "the decode module makes the first token"),
    ],
)
def test_canary_proves_which_worker_made_the_first_token(
    first_token: Side, handed: int, computed: int, fault: str
) -> None:
    found = canary_fault(reply([7, 8, 9]), reply([handed], prompt_tokens=computed), first_token)
    assert bool(found) == bool(fault)
    assert fault in found


@pytest.mark.parametrize("prefill", [None, b"nothing", b"[]", b"{}", orjson.dumps({"meta_info": GOOD})])
def test_canary_without_a_prefill_reply_that_shows_the_first_token_proves_nothing(prefill: bytes | None) -> None:
    assert canary_fault(reply([7, 8, 9]), prefill, "prefill")


def test_canary_of_a_decode_reply_without_ids_proves_no_handed_over_token() -> None:
    assert canary_fault(orjson.dumps({"meta_info": GOOD}), orjson.dumps({"meta_info": GOOD}), "prefill")


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
