"""Requests of other APIs with members of any type: refused by name, or a chat completion that can be sent."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.request import Endpoint, Translate, parse_request
from sun_sglang.router.protocol.responses.request import ResponseTranslation

NAMES = st.sampled_from(
    [
        *("input", "instructions", "messages", "system", "role", "content", "type", "text", "format"),
        *("schema", "name", "arguments", "call_id", "output", "tools", "tool_choice", "parameters"),
        *("input_schema", "mode", "reasoning", "effort", "summary", "include", "metadata", "stream"),
        *("stop_sequences", "max_tokens", "thinking", "max_output_tokens", "truncation", "store"),
        *("output_config", "id", "tool_use_id", "stream_options", "top_logprobs"),
    ]
)
KINDS = st.sampled_from(
    [
        *("message", "reasoning", "function_call", "function_call_output", "function", "allowed_tools"),
        *("json_schema", "input_text", "output_text", "refusal", "text", "tool_use", "tool_result"),
        *("thinking", "enabled", "any", "auto", "tool", "user", "assistant", "system", "developer", "required"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**40) | st.floats(allow_nan=False, allow_infinity=False) | KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
VALID: dict[Translate, dict[str, Any]] = {
    ResponseTranslation: {"model": "math", "input": "hi"},
    MessageTranslation: {"model": "math", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.mark.parametrize("translate", [ResponseTranslation, MessageTranslation])
@settings(max_examples=200, deadline=None)
@given(fields=st.dictionaries(NAMES, VALUES, max_size=5))
def test_request_with_members_of_any_type_is_translated_or_refused(translate: Translate, fields: Any) -> None:
    raw = orjson.dumps({**VALID[translate], **fields})
    try:
        request = parse_request(Endpoint.CHAT, raw, header_task=None, tasks=("math",), translate=translate)
    except RequestError:
        return
    assert request.translation is not None
    orjson.dumps([request.body, request.translation.whole({}), list(request.translation.writer().chunk({}))])


@pytest.mark.parametrize("kind", ["system", "reasoning", "user"])
def test_conversation_of_many_items_is_joined_in_linear_time(kind: str) -> None:
    item: dict[str, Any] = {"role": kind, "content": "x" * 50}
    if kind == "reasoning":
        item = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x" * 50}]}
    translation = ResponseTranslation(orjson.dumps({"input": [item] * 10_000}))
    assert len(translation.body["messages"]) == (10_000 if kind == "user" else 1)
