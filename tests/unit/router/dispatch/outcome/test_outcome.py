"""The outcome of an attempt, decided on the results of its legs."""

from __future__ import annotations

from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.router.dispatch.outcome.decision import (
    AttemptFailed,
    Relay,
    Serve,
    Wait,
    awaited_leg,
    deadline_passed,
    decide,
)
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult

OK = LegResponse(200, b'{"text":"x","meta_info":{"finish_reason":{"type":"length"}}}')


FIRST = LegResponse(200, b'data: {"choices":[{"finish_reason":null}]}\n\n', streamed=True)


BAD = LegResponse(400, b'{"error":{"message":"no"}}')


BROKEN = LegResponse(500, b"Internal Server Error")


LOST = LegFailure("gone")


ABORT = LegResponse(200, b'{"meta_info":{"finish_reason":{"type":"abort","message":"m","status_code":500}}}')


BLAMED = LegResponse(200, b'{"meta_info":{"finish_reason":{"type":"abort","message":"m","status_code":400}}}')


ABORT_EVENT = LegResponse(200, b'data: {"choices":[{"finish_reason":"abort"}]}\n\n', streamed=True)


ERROR_EVENT = LegResponse(200, b'data: {"error":{"message":"m","code":500}}\n\n', streamed=True)


BLAMED_EVENT = LegResponse(200, b'data: {"error":{"message":"m","code":429}}\n\n', streamed=True)


FAULTS = [LOST, BROKEN, ABORT, ABORT_EVENT, ERROR_EVENT, LegResponse(302, b"")]


REFUSALS = [BAD, BLAMED, BLAMED_EVENT]


@pytest.mark.parametrize("decode", [OK, FIRST])
@pytest.mark.parametrize("prefill", [None, OK, *FAULTS, *REFUSALS])
def test_a_token_from_decode_is_an_answer_whatever_prefill_says(prefill: Any, decode: LegResponse) -> None:
    assert isinstance(decide(prefill, decode), Serve)


@pytest.mark.parametrize("prefill", [None, OK])
def test_nothing_is_decided_before_decode_spoke(prefill: Any) -> None:
    assert isinstance(decide(prefill, None), Wait)


def test_input_logprobs_are_waited_for_and_their_loss_is_a_failure() -> None:
    assert isinstance(decide(None, OK, needs_prefill=True), Wait)
    assert isinstance(decide(OK, OK, needs_prefill=True), Serve)
    outcome = decide(LOST, OK, needs_prefill=True)
    assert isinstance(outcome, AttemptFailed)
    assert outcome.leg == "prefill"


@pytest.mark.parametrize(
    "says",
    [
        "Decode handshake failed for request rank=0 with exception KVTransferError",
        "Decode transfer failed for request rank=0: Lost connection with prefill instance (bootstrap_addr: h:1)",
    ],
)
def test_what_a_decode_worker_says_of_its_prefill_worker_is_that_ones_fault(says: str) -> None:
    outcome = decide(None, LegResponse(500, orjson.dumps({"error": {"message": says}})))
    assert isinstance(outcome, AttemptFailed)
    assert (outcome.leg, outcome.eject, outcome.revoke, outcome.retry) == ("prefill", False, True, True)
    assert outcome.error.status == 502


@pytest.mark.parametrize(("fault", "other"), list(product(FAULTS, [None, OK])))
def test_either_legs_fault_is_a_failure_that_may_be_tried_again(fault: Any, other: Any) -> None:
    for leg, outcome in (("prefill", decide(fault, None)), ("decode", decide(other, fault))):
        assert isinstance(outcome, AttemptFailed)
        assert (outcome.leg, outcome.retry) == (leg, True)
        assert outcome.eject == isinstance(fault, LegFailure)
        assert outcome.error.status == 502


@pytest.mark.parametrize(("refusal", "other"), list(product(REFUSALS, [None, *FAULTS])))
def test_a_refusal_by_either_leg_is_the_answer_even_beside_a_fault(refusal: Any, other: Any) -> None:
    for outcome in (decide(refusal, other), decide(other, refusal)):
        assert isinstance(outcome, Relay)
        assert outcome.error.status in (400, 429)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"object":"error","message":"no","type":"Bad Request","param":null,"code":400}', "no"),
        (b'{"error":"unknown field `x`, expected `y`"}', "unknown field `x`, expected `y`"),
        (b'{"detail":"no"}', "no"),
        (b"plain text", "plain text"),
        (b"", "refused by the LEG worker"),
    ],
)
@pytest.mark.parametrize("leg", ["prefill", "decode"])
def test_refusal_in_any_shape_reaches_clients_in_openais(leg: str, body: bytes, message: str) -> None:
    outcome = decide(LegResponse(400, body), None) if leg == "prefill" else decide(None, LegResponse(400, body))
    assert isinstance(outcome, Relay)
    assert orjson.loads(outcome.error.as_json()) == {
        "error": {
            "message": message.replace("LEG", leg),
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }


# what the two workers answer to a grammar that does not compile, in a stream; either may be first
BAD_GRAMMAR = (
    LegResponse(400, b'{"object":"error","message":"bad grammar","type":"BadRequestError","param":null,"code":400}'),
    LegResponse(
        200,
        b'data: {"error": {"object":"error","message":"bad grammar","type":"BadRequestError","code":400}}\n\n',
        streamed=True,
    ),
)


@pytest.mark.parametrize("prefill", [None, BAD_GRAMMAR[0]])
@pytest.mark.parametrize("decode", [None, BAD_GRAMMAR[1]])
def test_refusal_of_a_stream_has_one_shape_whichever_worker_is_first(
    prefill: LegResponse | None, decode: LegResponse | None
) -> None:
    if prefill is None and decode is None:
        return
    outcome = decide(prefill, decode, rid="0" * 32)
    assert isinstance(outcome, Relay)
    assert outcome.error.status == 400
    assert orjson.loads(outcome.error.as_json())["error"] == {
        "message": "bad grammar",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"error","message":"Requested token count exceeds the model\'s maximum context length of 8."}',
        b'{"error":{"message":"The input (9 tokens) is longer than the model\'s context length (8 tokens)."}}',
        b'{"message":"Input length (9 tokens) exceeds the maximum allowed length (8 tokens). Use a shorter input."}',
        b'{"message":"Request 0 exceeds the maximum number of tokens: 9 > 8"}',
        b'{"message":"max_completion_tokens is too large: 9.This model supports at most 8 completion tokens."}',
    ],
)
def test_overflow_that_a_worker_refuses_has_the_code_and_a_phrase_of_openai_or_sglang(body: bytes) -> None:
    outcome = decide(LegResponse(400, body), None)
    assert isinstance(outcome, Relay)
    assert outcome.error.code == "context_length_exceeded"
    phrases = ("maximum context length", "longer than the model's context length")
    assert any(phrase in outcome.error.message for phrase in phrases)


def test_field_and_code_that_a_worker_names_reach_the_client() -> None:
    body = b'{"error":{"message":"no","param":"tools","code":"bad_tool"}}'
    outcome = decide(LegResponse(422, body), None)
    assert isinstance(outcome, Relay)
    assert (outcome.error.status, outcome.error.param, outcome.error.code) == (422, "tools", "bad_tool")


def test_worker_that_refuses_the_routers_key_is_at_fault_and_not_the_client() -> None:
    for heard in ((LegResponse(401, b"{}"), None), (None, LegResponse(401, b"{}"))):
        outcome = decide(*heard)
        assert isinstance(outcome, AttemptFailed)
        assert outcome.eject
        assert outcome.error.status == 502


def test_a_refused_connection_is_a_503_and_a_broken_one_a_502() -> None:
    for refused, status in ((True, 503), (False, 502)):
        outcome = decide(LegFailure("x", refused=refused), None)
        assert isinstance(outcome, AttemptFailed)
        assert outcome.error.status == status


def test_an_abort_that_was_asked_for_is_an_answer() -> None:
    assert isinstance(decide(ABORT, None, abort_asked=True), Wait)
    assert isinstance(decide(ABORT, ABORT, abort_asked=True), Serve)
    assert isinstance(decide(None, ABORT_EVENT, abort_asked=True), Serve)
    assert isinstance(decide(None, LOST, abort_asked=True), AttemptFailed)


@pytest.mark.parametrize("message", ["Decode transfer failed", "Lost connection with prefill instance"])
@pytest.mark.parametrize("prefill", [None, ABORT, LOST])
def test_abort_that_breaks_a_transfer_is_nobodys_fault(message: str, prefill: LegResult | None) -> None:
    outcome = decide(prefill, LegResponse(500, message.encode()), abort_asked=True)
    assert isinstance(outcome, Relay)
    assert (outcome.error.status, outcome.error.code) == (400, "aborted")


def test_who_owes_the_first_token() -> None:
    assert awaited_leg(None) == "prefill"
    assert awaited_leg(OK) == "decode"


@pytest.mark.parametrize(("silent", "eject"), [(1.0, False), (5.0, False), (6.0, True), (float("inf"), True)])
def test_a_late_worker_is_ejected_only_if_it_answers_nobody(silent: float, eject: bool) -> None:
    outcome = deadline_passed("decode", silent=silent, limit=10.0)
    assert (outcome.leg, outcome.eject, outcome.retry, outcome.error.status) == (
        "decode",
        eject,
        False,
        504 if eject else 503,
    )


def test_text_that_only_looks_like_an_abort_is_an_answer() -> None:
    said = orjson.dumps({"text": '"finish_reason":{"type":"abort"}', "meta_info": {"finish_reason": {"type": "stop"}}})
    assert isinstance(decide(None, LegResponse(200, said)), Serve)
    deeper = orjson.dumps({"choices": [{"finish_reason": "stop", "x": "abort"}]})
    assert isinstance(decide(None, LegResponse(200, deeper)), Serve)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-600, 600) | st.sampled_from(["abort", "error", "500", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["meta_info", "finish_reason", "type", "choices", "error", "code", "message", "status_code"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(body=JSON.map(orjson.dumps) | st.binary(max_size=40), status=st.sampled_from([100, 200, 204, 302, 400, 500]))
def test_judge_decides_on_whatever_a_worker_sends(body: bytes, status: int) -> None:
    for said in (LegResponse(status, body), LegResponse(status, b"data: " + body + b"\n\n", streamed=True)):
        for prefill, decode in ((said, None), (None, said), (said, said)):
            assert isinstance(decide(prefill, decode, rid="0" * 32), Wait | Serve | Relay | AttemptFailed)
