"""Several answers to one request cost what they add, and no copies of what they share; their work is counted whole."""

from __future__ import annotations

from collections import ChainMap
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from sun_sglang.errors import RequestError
from sun_sglang.router.dispatch.legs.leg_bodies import leg_bodies
from sun_sglang.router.dispatch.legs.pair_request import PairRequest, make_pair_requests
from sun_sglang.router.protocol.fan_out import split_request
from sun_sglang.router.protocol.prompt_length import measure_prompt
from sun_sglang.router.protocol.request import Endpoint, Request, parse_request
from sun_sglang.router.scheduling.cost import Cost, estimate_cost
from tests.unit.router.conftest import SUN, Start, System
from tests.unit.router.registries import proven_registry

STOP = ["s" * 1000]


def read(endpoint: Endpoint, **body: Any) -> Request:
    return parse_request(endpoint, orjson.dumps(body), header_task="math", tasks=["math"])


def calls_of(request: Request, most: int | None = None) -> tuple[PairRequest, ...]:
    costs = [Cost(1, 1)] * (request.batch or 1)
    return make_pair_requests(request, split_request(request), costs, worker_model="math", max_bytes=most)


def test_prompts_of_a_list_share_all_their_other_fields() -> None:
    request = read(Endpoint.COMPLETIONS, prompt=["a", "b", "a"], n=2, stop=STOP)
    singles, calls = split_request(request), calls_of(request)
    assert [dict(single.own_fields) for single in singles[::2]] == [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}]
    assert all(isinstance(s.body, ChainMap) and s.body.maps[-1] is request.body for s in singles)
    assert all(call.shared is calls[0].shared for call in calls)
    assert [call.own for call in calls] == [b',"prompt":"%b"' % p for p in (b"a", b"a", b"b", b"b", b"a", b"a")]
    assert all(first.own is second.own for first, second in zip(calls[::2], calls[1::2], strict=True))


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": "hi"}], "n": 3}),
        (Endpoint.COMPLETIONS, {"prompt": "hi", "n": 3}),
        (Endpoint.GENERATE, {"text": "hi", "sampling_params": {"n": 3}}),
    ],
)
def test_answers_to_one_prompt_share_everything(endpoint: Endpoint, body: dict[str, Any]) -> None:
    request = read(endpoint, **body)
    calls = calls_of(request)
    assert len(calls) == 3
    assert all(single.body is request.body for single in split_request(request))
    assert all(call.shared is calls[0].shared and call.own == b"" for call in calls)


@pytest.mark.parametrize("more", [{}, {"return_logprob": True, "sampling_params": {"temperature": 0}}])
def test_a_leg_of_a_list_has_its_own_prompt_and_the_shared_fields(more: dict[str, Any]) -> None:
    pair = proven_registry().usable("math")[0]
    for call, prompt in zip(calls_of(read(Endpoint.GENERATE, text=["a", "b"], **more)), "ab", strict=True):
        prefill, decode = (orjson.loads(leg) for leg in leg_bodies(call, pair, rid="r" * 32, room=7))
        assert prefill == decode
        ours = ("rid", "bootstrap_host", "bootstrap_port", "bootstrap_room", "extra_key", "stream")
        assert {name: value for name, value in decode.items() if name not in ours} == {"text": prompt, **more}


def test_legs_that_would_be_too_large_together_are_refused_before_they_are_made() -> None:
    request = read(Endpoint.COMPLETIONS, prompt=["a"] * 40, stop=STOP)
    sent = sum(call.size for call in calls_of(request))
    assert 2 * 40 * 1000 < sent < 2 * 40 * 1500
    assert len(calls_of(request, most=sent)) == 40
    with pytest.raises(RequestError, match=r"40 answers.*split the list") as e:
        calls_of(request, most=sent - 1)
    assert (e.value.status, e.value.code) == (413, "fan_out_too_large")
    assert len(calls_of(read(Endpoint.COMPLETIONS, prompt="a", stop=STOP), most=1)) == 1, "one answer is its own bound"


async def test_a_list_whose_legs_are_too_large_together_reaches_no_worker(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_body_mb": 0.01})
    body = {"model": "math", "prompt": ["a"] * 40, "stop": STOP}
    status, reply = await system.post("/v1/completions", body)
    assert (status, reply["error"]["code"]) == (413, "fan_out_too_large")
    status, _ = await system.post("/v1/completions", body | {"prompt": ["a"] * 4})
    assert status == 200
    await system.quiet()
    assert len(system["base-0"].requests) == 4


async def test_a_key_over_its_rate_makes_no_worker_tokenize(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = {"name": "a", "key": "a" * 20, "tokens_per_minute": 6}
    file.write_text(yaml.safe_dump({"keys": [key]}))
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)})
    headers = {"Authorization": "Bearer " + "a" * 20}
    # as many words as a worker takes, and more bytes than that: only a tokenizer decides
    body = {"model": "math", "text": "abcd " * 900, "sampling_params": {"max_new_tokens": 2}}
    too_long = body | {"text": "abcd " * 1100}
    status, reply = await system.post("/generate", too_long, headers=headers)
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
    assert (await system.post("/generate", body, headers=headers))[0] == 200, "a refused request costs no tokens"
    asked = len(system["math-0"].counted)
    assert asked == 2
    assert (await system.post("/generate", body, headers=headers))[0] == 429
    assert len(system["math-0"].counted) == asked


# --- work -----------------------------------------------------------------------------------------------------------

TEXT = "x" * 80_000
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": TEXT}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]},
        {"messages": [USER, {"role": "assistant", "content": "a", "reasoning_content": TEXT}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": TEXT}}]}]},
        {"messages": [{"role": "user", "content": "a", "name": TEXT}]},
        {"messages": [USER], "tools": [{"type": "function", "function": {"name": "f", "description": TEXT}}]},
        {"messages": [USER], "chat_template_kwargs": {"documents": TEXT}},
    ],
)
def test_work_counts_all_text_that_may_reach_a_chats_prompt(body: dict[str, Any]) -> None:
    cost = estimate_cost(Endpoint.CHAT, {**body, "max_tokens": 7})
    assert 20_000 <= cost.prefill < 20_100
    assert cost.decode == cost.prefill + 7
    size = measure_prompt(Endpoint.CHAT, body)
    assert size is not None
    assert size.most >= 80_000, "the upper bound on tokens counts the same text"


def test_work_of_text_is_counted_in_bytes() -> None:
    assert estimate_cost(Endpoint.COMPLETIONS, {"prompt": "é" * 400}).prefill == 201
    assert estimate_cost(Endpoint.CHAT, {"messages": [{"role": "", "content": "é" * 400}]}).prefill == 201
    assert estimate_cost(Endpoint.CHAT, {"messages": [USER], "input_ids": [1, 2, 3]}).prefill == 3
