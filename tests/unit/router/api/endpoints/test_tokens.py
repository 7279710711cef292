"""`/tokenize`, `/detokenize` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Any

import pytest

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
