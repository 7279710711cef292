"""Values of another JSON type: converted where SGLang's classes convert them, and refused elsewhere."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sun_sglang.contracts.template_variables import RESERVED_VARIABLES
from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.request import Endpoint, Request, parse_request

MINIMAL: dict[Endpoint, dict[str, Any]] = {
    Endpoint.COMPLETIONS: {"prompt": "hi"},
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Endpoint.GENERATE: {"text": "hi"},
}
OPENAI = [Endpoint.COMPLETIONS, Endpoint.CHAT]
USER = {"role": "user", "content": "hi"}


def read(endpoint: Endpoint, body: dict[str, Any]) -> Request:
    return parse_request(endpoint, orjson.dumps({**MINIMAL[endpoint], **body}), header_task="math", tasks=["math"])


def refused(endpoint: Endpoint, body: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as e:
        read(endpoint, body)
    assert e.value.status == 400
    return e.value


@pytest.mark.parametrize("endpoint", OPENAI)
@pytest.mark.parametrize(
    ("name", "given", "sent"),
    [
        ("max_tokens", 12.0, 12),
        ("max_tokens", "12", 12),
        ("max_tokens", " 12.0 ", 12),
        ("seed", "-7", -7),
        ("top_k", 5.0, 5),
        ("temperature", "0", 0.0),
        ("temperature", True, 1.0),
        ("top_p", "0.5", 0.5),
        ("ignore_eos", 1, True),
        ("skip_special_tokens", "false", False),
        ("stop_token_ids", ["5", 6.0], [5, 6]),
        ("logit_bias", {"5": "-1"}, {"5": -1.0}),
        ("return_hidden_states", "false", False),
    ],
)
def test_value_that_sglang_converts_reaches_workers_converted(
    endpoint: Endpoint, name: str, given: Any, sent: Any
) -> None:
    value = read(endpoint, {name: given}).body[name]
    assert (value, type(value)) == (sent, type(sent))


@pytest.mark.parametrize("endpoint", OPENAI)
def test_field_of_the_router_is_converted_too(endpoint: Endpoint) -> None:
    request = read(endpoint, {"n": 2.0, "stream": "true", "stream_options": {"include_usage": 1}})
    assert (request.n, request.stream, request.include_usage) == (2, True, True)
    assert read(endpoint, {"n": "1", "stream": 0}).stream is False


@pytest.mark.parametrize("endpoint", OPENAI)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 12.5),
        ("max_tokens", "twelve"),
        ("max_tokens", "1" * 5000),
        ("max_tokens", "4294967296"),
        ("max_tokens", -1.0),
        ("max_tokens", []),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "-1"),
        ("n", 0.0),
        ("n", "129"),
        ("n", 1.5),
        ("stream", 2),
        ("stream", "perhaps"),
        ("ignore_eos", "no way"),
        ("stop_token_ids", ["x"]),
        ("stop_token_ids", ["5"] * 5000),
        ("logit_bias", {"5": "x"}),
    ],
)
def test_value_that_sglang_refuses_or_that_is_out_of_bounds_is_refused(
    endpoint: Endpoint, name: str, value: Any
) -> None:
    assert refused(endpoint, {name: value}).param == name


@pytest.mark.parametrize(
    "body",
    [
        {"sampling_params": {"max_new_tokens": 12.0}},
        {"sampling_params": {"temperature": "0"}},
        {"sampling_params": {"n": 1.0}},
        {"stream": 1},
        {"return_logprob": "true"},
    ],
)
def test_value_of_another_type_is_refused_by_generate_as_by_sglang(body: dict[str, Any]) -> None:
    refused(Endpoint.GENERATE, body)


@pytest.mark.parametrize("endpoint", OPENAI)
def test_null_in_every_optional_field_means_no_value(endpoint: Endpoint) -> None:
    names = "max_tokens max_completion_tokens temperature top_p top_k n stop seed stream stream_options logit_bias user"
    names += " tools tool_choice response_format logprobs top_logprobs rid model presence_penalty parallel_tool_calls"
    request = read(endpoint, dict.fromkeys(names.split()))
    assert request.body == MINIMAL[endpoint]
    assert (request.n, request.stream) == (1, False)


@pytest.mark.parametrize("name", RESERVED_VARIABLES)
@pytest.mark.parametrize("value", [None, True, [], "x"])
def test_template_variable_with_a_reserved_name_is_refused_by_name(name: str, value: Any) -> None:
    error = refused(Endpoint.CHAT, {"chat_template_kwargs": {"enable_thinking": False, name: value}})
    assert (error.param, error.code) == ("chat_template_kwargs", "reserved_field")
    assert f"`chat_template_kwargs.{name}`" in error.message


def call(arguments: Any) -> dict[str, Any]:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": calls}, USER]}


@pytest.mark.parametrize("depth", [248, 249, 254, 255, 600, 1000])
def test_arguments_of_a_tool_call_are_nested_to_248_levels_as_text_and_as_an_object(depth: int) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    for arguments in (text, orjson.loads(text)) if depth <= 254 - 6 else (text,):
        if depth <= 248:
            assert read(Endpoint.CHAT, call(arguments))
        else:
            error = refused(Endpoint.CHAT, call(arguments))
            assert error.param == "messages"
            assert "`messages.1.tool_calls.0.function.arguments` is nested deeper" in error.message


@pytest.mark.parametrize("arguments", ["{" * 300, '{"a": "' + "[" * 300 + '"}', "", None, 5, {}, [[]]])
def test_arguments_with_brackets_that_nest_nothing_reach_the_worker(arguments: Any) -> None:
    assert read(Endpoint.CHAT, call(arguments))
