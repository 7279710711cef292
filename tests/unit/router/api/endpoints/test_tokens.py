"""`/tokenize`, `/detokenize` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import SMALL, SUN, Start, System

HI = [{"role": "user", "content": "hi there"}]


@pytest.fixture
async def small(start: Start) -> System:
    system: System = await start(SUN, SMALL)
    return system


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
async def test_tokenize_returns_the_prefill_workers_ids(small: System, path: str) -> None:
    assert await small.post(path, {"model": "math", "prompt": "ab", "add_special_tokens": False}) == (
        200,
        {"tokens": [97, 98], "count": 2, "max_model_len": 4096},
    )
    assert small["math-0"].counted[-1]["add_special_tokens"] is False
    assert not small["base-0"].counted


async def test_tokenize_of_a_list_sends_one_prompt_at_a_time(small: System) -> None:
    status, reply = await small.post("/tokenize", {"model": "math", "prompt": ["ab", "", "c"]})
    assert (status, reply["tokens"], reply["count"]) == (200, [[97, 98], [], [99]], [2, 0, 1])
    assert [body["prompt"] for body in small["math-0"].counted] == ["ab", "", "c"]


async def test_tokenize_of_messages_sends_the_fields_of_the_template_and_no_others(small: System) -> None:
    body = {"model": "math", "messages": HI, "add_generation_prompt": False, "temperature": 1, "session_params": None}
    status, _ = await small.post("/tokenize", body)
    assert status == 200
    assert set(small["math-0"].counted[-1]) == {"messages", "add_generation_prompt", "model"}


@pytest.mark.parametrize("tokens", [[97, 98], [[97, 98], [], [99]], []])
async def test_detokenize_returns_the_text_of_each_list(small: System, tokens: list[Any]) -> None:
    wanted = {"[97, 98]": "ab", "[]": ""}.get(str(tokens), ["ab", "", "c"])
    assert await small.post("/detokenize", {"model": "math", "tokens": tokens}) == (200, {"text": wanted})


async def test_count_tokens_counts_the_whole_conversation(small: System) -> None:
    body = {"model": "math", "messages": HI, "system": "be very brief"}
    assert await small.post("/v1/messages/count_tokens", body) == (200, {"input_tokens": 5})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HI}, "prompt"),
        ("/tokenize", {"prompt": [3]}, "prompt"),
        ("/tokenize", {"prompt": ["a"] * 1025}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "maybe"}, "add_special_tokens"),
        ("/tokenize", {"messages": "x"}, "messages"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, "a"]}, "tokens"),
        ("/detokenize", {"tokens": [[1], 2]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [1 << 30]}, "tokens"),
        ("/detokenize", {"tokens": [1] * 100_000}, "tokens"),
    ],
)
async def test_token_request_that_is_invalid_names_the_field(small: System, path: str, body: Any, param: str) -> None:
    status, reply = await small.post(path, {"model": "math", **body})
    assert (status, reply["error"]["param"]) == (400, param)
    assert not small["math-0"].counted


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_token_request_for_an_unknown_task_is_a_404(small: System, path: str) -> None:
    status, reply = await small.post(path, {"model": "nope", "prompt": "a", "tokens": [1]})
    assert (status, reply["error"]["code"]) == (404, "model_not_found")


async def test_tokenize_of_a_prompt_over_the_context_is_refused_before_a_worker_tokenizes_it(small: System) -> None:
    status, reply = await small.post("/tokenize", {"model": "math", "prompt": "a " * 100_000})
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
    assert not any("add_special_tokens" in body for body in small["math-0"].counted)


async def test_tokenize_of_a_list_over_the_bound_of_the_sum_stops_at_the_bound(
    small: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sun_sglang.router.api.endpoints.tokens._MAX_TOKENS", 5)
    status, reply = await small.post("/tokenize", {"model": "math", "prompt": ["abc", "de"]})
    assert (status, reply["tokens"]) == (200, [[97, 98, 99], [100, 101]])
    status, reply = await small.post("/tokenize", {"model": "math", "prompt": ["abc", "def", "g"]})
    assert (status, reply["error"]["code"], reply["error"]["param"]) == (413, "response_too_large", "prompt")
    assert small["math-0"].counted[-1]["prompt"] == "def", "no prompt after the bound is sent"
    status, reply = await small.post("/detokenize", {"model": "math", "tokens": [[97] * 3] * 2})
    assert (status, reply["error"]["code"], reply["error"]["param"]) == (413, "response_too_large", "tokens")


async def test_detokenize_of_a_list_bounds_the_sum_of_its_texts(small: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sun_sglang.router.api.endpoints.tokens.MAX_REPLY_BYTES", 5)
    assert (await small.post("/detokenize", {"model": "math", "tokens": [[97] * 3, [97] * 2]}))[0] == 200
    status, reply = await small.post("/detokenize", {"model": "math", "tokens": [[97] * 3, [0xE9] * 2, [97]]})
    assert (status, reply["error"]["code"]) == (413, "response_too_large")
    assert small["math-0"].counted[-1]["tokens"] == [0xE9] * 2


PAID = {
    "/tokenize": [
        {"prompt": "abcd" * 40},
        {"prompt": ["abcd" * 20] * 2},
        {"messages": [{**HI[0], "content": "a" * 160}]},
    ],
    "/detokenize": [{"tokens": [97] * 40}, {"tokens": [[97] * 20] * 2}],
    "/v1/messages/count_tokens": [{"messages": [{**HI[0], "content": "a" * 160}]}],
}


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, bodies in PAID.items() for body in bodies])
async def test_token_request_is_charged_its_tokens(start: Start, tmp_path: Path, path: str, body: Any) -> None:
    file, key = tmp_path / "keys.yaml", "user-key-0123456789"
    # the bucket holds 20 tokens, and gains 2 in a second
    file.write_text(yaml.safe_dump({"keys": [{"name": "user", "key": key, "tokens_per_minute": 120}]}))
    system: System = await start(SUN, SMALL, router={"api_keys": str(file)})
    system.client.headers["Authorization"] = f"Bearer {key}"
    refused = {"/detokenize": {"tokens": [1 << 30]}}.get(path, {"messages": [{**HI[0], "content": "a " * 9000}]})
    for _ in range(2):
        assert (await system.post(path, {"model": "math", **refused}))[0] == 400, "a refused request is free"
    assert (await system.post(path, {"model": "math", **body}))[0] == 200
    status, reply = await system.post(path, {"model": "math", **body})
    assert status == 429
    assert reply["error"].get("code") in ("rate_limit_exceeded", None)


async def test_token_requests_that_wait_for_one_worker_are_bounded(
    small: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sun_sglang.router.serving.admission.tokenizer_client.MOST_WAITING", 2)
    small["math-0"].silent_counts = True
    count = {"model": "math", "messages": HI}
    waiting = [asyncio.create_task(small.post("/v1/messages/count_tokens", count)) for _ in range(2)]
    await wait_until(lambda: small["math-0"].counted)
    client = small.router.tokenizer_client
    await wait_until(lambda: client._waiting["math-0"] == 2)
    status, reply = await small.post("/tokenize", {"model": "math", "prompt": "ab"})
    assert (status, reply["error"]["code"]) == (429, "queue_full")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await wait_until(lambda: not client._waiting["math-0"])
    assert (await small.post("/tokenize", {"model": "math", "prompt": "ab"}))[0] == 200
