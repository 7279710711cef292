"""The requests to both workers."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.first_token import Mark, read_mark
from sun_sglang.contracts.module import module_in
from sun_sglang.contracts.scheme import Side
from sun_sglang.router.dispatch.legs.cache_namespace import cache_namespace
from sun_sglang.router.dispatch.legs.leg_bodies import leg_bodies, new_leg_ids
from sun_sglang.router.dispatch.legs.pair_request import make_pair_requests, worker_model
from sun_sglang.router.observability.request_id import RandomBytes
from sun_sglang.router.protocol.fan_out import split_request
from sun_sglang.router.protocol.request import Endpoint, parse_request
from sun_sglang.router.scheduling.cost import Cost
from tests.unit.router.registries import card, proven_registry
from tests.unit.router.weights_refs import adapter, module

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


@pytest.mark.invariant("I7")
def test_namespace_of_an_adapter_is_its_own() -> None:
    found = {
        cache_namespace("m", "w", *keys, weights=a) for a in (None, adapter(1), adapter(2)) for keys in ((), ("k",))
    }
    assert len(found) == 6
    assert "m@w+0000000000000001" in found


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("first_token", ["prefill", "decode"])
def test_namespace_of_a_module_is_its_own_and_names_it_to_both_workers(first_token: Side) -> None:
    raw = orjson.dumps({"model": "math", "prompt": "hi", "extra_key": "*0000000000000009", "cache_salt": "s"})
    request = parse_request(Endpoint.COMPLETIONS, raw, header_task=None, tasks=["math"])
    (call,) = make_pair_requests(request, split_request(request), [Cost(1, 1)], worker_model="math")
    own = module(1, tuned_for="w", first_token=first_token)
    pair = replace(proven_registry().usable("math")[0], weights=own)
    for keeps_answers in (False, True):
        pair.decode.accept_card(card("decode", keeps_answers=keeps_answers), "")
        prefill, decode = map(orjson.loads, leg_bodies(call, pair, rid="r" * 32, room=7))
        assert "lora_path" not in prefill
        assert "m@w*0000000000000001#" in prefill["extra_key"]
        assert [module_in(leg["extra_key"]) for leg in (prefill, decode)] == [own.revision] * 2
        assert (prefill["extra_key"] == decode["extra_key"]) is not keeps_answers
    plain = leg_bodies(call, replace(pair, weights=None), rid="r" * 32, room=7)
    assert module_in(orjson.loads(plain.prefill)["extra_key"]) is None, "whatever the client's own keys are"
    found = {cache_namespace("m", "w", weights=w) for w in (None, adapter(1), module(1), module(2))}
    assert len(found) == 4


@pytest.mark.invariant("I7")
def test_adapter_goes_to_the_prefill_leg_alone_and_divides_the_namespace_of_both() -> None:
    raw = orjson.dumps({"model": "math", "prompt": "hi"})
    request = parse_request(Endpoint.COMPLETIONS, raw, header_task=None, tasks=["math"])
    (call,) = make_pair_requests(request, split_request(request), [Cost(1, 1)], worker_model="math")
    pair = proven_registry().usable("math")[0]
    pair = replace(pair, weights=adapter(1))
    prefill, decode = map(orjson.loads, leg_bodies(call, pair, rid="r" * 32, room=7))
    assert prefill.pop("lora_path") == "sun-0000000000000001"
    assert prefill == decode
    assert prefill["extra_key"] == "m@w+0000000000000001"
    pair.decode.accept_card(card("decode", keeps_answers=True), "")
    prefill, decode = map(orjson.loads, leg_bodies(call, pair, rid="r" * 32, room=7))
    assert decode["extra_key"].startswith(prefill["extra_key"] + "!"), "equal weights without the adapter"


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
    shared = call.sharing(group=5, holder="")
    ranks = [orjson.loads(leg_bodies(shared, pair, rid="r" * 32, room=r).prefill)["routed_dp_rank"] for r in (7, 8)]
    assert ranks == [2, 2], "answers to one prompt find it in the cache of one rank"


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [
        ({"tuned_for": "w", "first_token": "decode"}, {}),
        ({}, {"first_token": "decode"}),
        ({"tuned_for": "w", "first_token": "decode"}, {"keeps_answers": True, "identity": {"weights": "w"}}),
    ],
)
def test_legs_of_a_pair_whose_decode_module_makes_the_first_token_carry_the_mark(
    prefill: dict[str, object], decode: dict[str, object]
) -> None:
    raw = orjson.dumps({"model": "math", "prompt": "hi", "extra_key": "mine"})
    request = parse_request(Endpoint.COMPLETIONS, raw, header_task=None, tasks=["math"])
    (call,) = make_pair_requests(request, split_request(request), [Cost(1, 1)], worker_model="math")
    pair = proven_registry().usable("math")[0]
    plain = [orjson.loads(body)["extra_key"] for body in leg_bodies(call, pair, rid="r" * 32, room=7)]
    pair.prefill.accept_card(card("prefill", **prefill), "")
    pair.decode.accept_card(card("decode", **decode), "")
    keys = [orjson.loads(body)["extra_key"] for body in leg_bodies(call, pair, rid="r" * 32, room=7)]
    assert [read_mark(key) for key in keys] == [Mark(True, namespace) for namespace in plain]
