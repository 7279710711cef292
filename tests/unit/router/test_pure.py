"""Decisions without sockets."""

from __future__ import annotations

from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.errors import RequestError
from sun_sglang.router.dispatch.cache_namespace import cache_namespace
from sun_sglang.router.dispatch.legs import leg_bodies, new_leg_ids
from sun_sglang.router.dispatch.outcome import (
    AttemptFailed,
    Relay,
    Serve,
    Wait,
    awaited_leg,
    deadline_passed,
    decide,
)
from sun_sglang.router.dispatch.pair_request import make_pair_requests, worker_model
from sun_sglang.router.observability.request_id import RandomBytes
from sun_sglang.router.protocol.fan_out import split_request
from sun_sglang.router.protocol.prompt_length import measure_prompt
from sun_sglang.router.protocol.request import Endpoint, choose_task, parse_request
from sun_sglang.router.protocol.worker_replies import TokenCounts, error_message, token_counts
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult
from tests.unit.router.registries import card, proven_registry

# --- outcomes -------------------------------------------------------------------------------------------------------

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


OWN_BODIES = [
    b'{"error":{"message":"no"}}',
    b'{"object":"error","message":"no","type":"Bad Request","param":null,"code":400}',
]


@pytest.mark.parametrize("body", OWN_BODIES)
@pytest.mark.parametrize("leg", ["prefill", "decode"])
def test_refusal_in_a_shape_that_clients_read_is_passed_on_as_it_came(leg: str, body: bytes) -> None:
    outcome = decide(LegResponse(400, body), None) if leg == "prefill" else decide(None, LegResponse(400, body))
    assert isinstance(outcome, Relay)
    assert (outcome.error.status, outcome.error.as_json()) == (400, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"unknown field `x`, expected `y`"}', "unknown field `x`, expected `y`"),
        (b'{"detail":"no"}', "{'detail': 'no'}"),
        (b"plain text", "plain text"),
        (b"", "refused by the LEG worker"),
    ],
)
@pytest.mark.parametrize("leg", ["prefill", "decode"])
def test_refusal_in_another_shape_reaches_clients_in_the_routers(leg: str, body: bytes, message: str) -> None:
    outcome = decide(LegResponse(400, body), None) if leg == "prefill" else decide(None, LegResponse(400, body))
    assert isinstance(outcome, Relay)
    error = orjson.loads(outcome.error.as_json())["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", message.replace("LEG", leg))


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


# --- legs -----------------------------------------------------------------------------------------------------------

KEYS = st.one_of(st.none(), st.text(max_size=6))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True)


@pytest.mark.invariant("I7")
@given(st.lists(st.tuples(NAMES, st.from_regex(r"[0-9a-f]{4}", fullmatch=True), KEYS, KEYS), min_size=2, max_size=2))
def test_namespaces_are_unambiguous(two: list[tuple[str, str, str | None, str | None]]) -> None:
    first, second = ((pool, weights, key or None, salt or None) for pool, weights, key, salt in two)
    assert (cache_namespace(*two[0]) == cache_namespace(*two[1])) == (first == second)
    assert cache_namespace(*two[0]).startswith(f"{two[0][0]}@{two[0][1]}")


@pytest.mark.invariant("I4")
def test_rooms_and_rids() -> None:
    random_bytes = RandomBytes()
    names = [new_leg_ids(random_bytes.read(24)) for _ in range(1000)]
    assert all(0 < room < 1 << 63 for _, room in names)
    assert len(set(names)) == 1000
    assert {len(rid) for rid, _ in names} == {32}


def test_the_wire_name_of_a_task_has_no_colon_and_is_its_own() -> None:
    assert worker_model("org/model-1.5") == "org/model-1.5"
    assert ":" not in worker_model("a:b")
    assert worker_model("a:b") != worker_model("a:c")


@pytest.mark.parametrize("stream", [False, True])
def test_bodies_of_both_legs(stream: bool) -> None:
    raw = {
        "model": "math",
        "prompt": "hi",
        "stream": stream,
        "stream_options": {"x": 1, "continuous_usage_stats": True},
        "temperature": 0,
        "rid": "mine",
    }
    request = parse_request(Endpoint.COMPLETIONS, orjson.dumps(raw), header_task=None, tasks=["math"])
    (call,) = make_pair_requests(request, split_request(request), [Cost(1, 1)], worker_model="math")
    pair = proven_registry().usable("math")[0]
    prefill, decode = map(orjson.loads, leg_bodies(call, pair, rid="r" * 32, room=7))
    assert prefill.pop("stream") is False
    assert decode.pop("stream") is stream
    assert decode.pop("stream_options", None) == (
        {"continuous_usage_stats": True, "include_usage": True} if stream else None
    )
    assert (
        prefill
        == decode
        == {
            "model": "math",
            "prompt": "hi",
            "temperature": 0,
            "rid": "r" * 32,
            "bootstrap_host": "h0",
            "bootstrap_port": 9000,
            "bootstrap_room": 7,
            "extra_key": "m@w",
        }
    )


@pytest.mark.parametrize(("room", "rank"), [(7, 1), (8, 2)])
def test_legs_of_a_prefill_worker_with_data_parallel_ranks_name_one_rank(room: int, rank: int) -> None:
    raw = orjson.dumps({"model": "math", "prompt": "hi"})
    request = parse_request(Endpoint.COMPLETIONS, raw, header_task=None, tasks=["math"])
    (call,) = make_pair_requests(request, split_request(request), [Cost(1, 1)], worker_model="math")
    registry = proven_registry()
    pair = registry.usable("math")[0]
    pair.prefill.accept_card(card("prefill", dp_size=3), "")
    prefill, decode = map(orjson.loads, leg_bodies(call, pair, rid="r" * 32, room=room))
    assert prefill["disagg_prefill_dp_rank"] == decode["disagg_prefill_dp_rank"] == rank
    assert prefill["routed_dp_rank"] == rank
    assert "routed_dp_rank" not in decode, "the decode worker chooses its own rank"


# --- the rest -------------------------------------------------------------------------------------------------------


def test_tokens_of_every_kind_of_reply() -> None:
    meta = {"meta_info": {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}}
    assert token_counts(meta) == TokenCounts(3, 2, 1)
    assert token_counts([meta, meta]) == TokenCounts(6, 4, 2)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    assert token_counts({"usage": usage}) == token_counts(usage) == TokenCounts(3, 2, 1)
    assert token_counts({"usage": {**usage, "prompt_tokens_details": None}}) == TokenCounts(3, 2, 0)
    assert token_counts(None) == token_counts([]) == token_counts({"usage": None}) == TokenCounts(0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [b'{"error":{"message":"m"}}', b'{"object":"error","message":"m","code":400}', b'{"error":"m"}', b"m", b'"m"'],
)
def test_error_messages_of_every_shape(body: bytes) -> None:
    assert error_message(body) == "m"


@pytest.mark.parametrize(
    ("header", "model", "tasks", "task"),
    [
        (None, "a", ["a", "b"], "a"),
        ("b", "a", ["a", "b"], "b"),
        ("b", 3, ["a", "b"], "b"),
        (None, None, ["a"], "a"),
        (None, "default", ["a"], "a"),
        (None, "default", ["a", "default"], "default"),
    ],
)
def test_the_task_of_a_request(header: str | None, model: object, tasks: list[str], task: str) -> None:
    assert choose_task(header, model, tasks) == task


@pytest.mark.parametrize(
    ("header", "model", "tasks", "status"),
    [
        (None, "c", ["a", "b"], 404),
        (None, "c", ["a"], 404),
        ("c", "a", ["a"], 404),
        (None, None, ["a", "b"], 400),
        (None, 3, ["a"], 400),
    ],
)
def test_no_task_of_that_name(header: str | None, model: object, tasks: list[str], status: int) -> None:
    with pytest.raises(RequestError) as e:
        choose_task(header, model, tasks)
    assert e.value.status == status


@given(st.text(min_size=1, max_size=50))
def test_a_text_has_no_more_tokens_than_bytes_and_the_margin(text: str) -> None:
    size = measure_prompt(Endpoint.GENERATE, {"text": text})
    assert size is not None
    assert size.most > len(text.encode(errors="surrogatepass"))


def test_a_chat_with_a_picture_is_measured_like_any_other() -> None:
    content = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "y" * 5000}]
    size = measure_prompt(Endpoint.CHAT, {"messages": [{"role": "user", "content": content}]})
    assert size is not None
    assert size.most > 5000
