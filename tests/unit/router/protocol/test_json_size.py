"""A body with too many values is refused before it is parsed, on every endpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol import json_body, json_size
from sun_sglang.router.protocol.json_size import MAX_CONTAINERS, MAX_STRINGS, is_too_large
from sun_sglang.router.protocol.messages.reply import arguments_of
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.request import Endpoint, Request, Translate, parse_request
from sun_sglang.router.protocol.responses.request import ResponseTranslation

TEXT = st.text(st.sampled_from('[]{},"\\ax\n'), max_size=12)
VALUES = st.recursive(
    st.none() | st.integers(0, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=40,
)
CHAT = b'{"messages":[{"role":"user","content":"x"}],"max_tokens":2,"input":"x","prompt":"x","text":"x",'
OTHER_APIS: list[Translate | None] = [ResponseTranslation, MessageTranslation, None]
MANY: dict[str, bytes] = {
    "lists": b"[],",
    "objects": b"{},",
    "items": b'{"role":"user","content":"x"},',
    "calls": b'{"type":"function_call","call_id":"c","name":"w","arguments":"{}"},',
    "reasoning": b'{"type":"reasoning","summary":[]},',
}


def refuse_to_parse(text: Any) -> Any:
    raise AssertionError("the body was parsed")


def parse(raw: bytes, translate: Translate | None = None, endpoint: Endpoint = Endpoint.CHAT) -> Request:
    return parse_request(endpoint, raw, header_task="math", tasks=("math",), translate=translate)


def assert_refused_unparsed(raw: bytes, translate: Translate | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(loads=refuse_to_parse, JSONDecodeError=orjson.JSONDecodeError)
    monkeypatch.setattr(json_body, "orjson", fake)
    with pytest.raises(RequestError, match="the body has over 65,536 objects and lists") as refused:
        parse(raw, translate)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


def sizes(value: Any) -> tuple[int, int]:
    """Return the objects and lists of a value, and its strings with the names of members."""
    if isinstance(value, str):
        return 0, 1
    if not isinstance(value, list | dict):
        return 0, 0
    inner = value if isinstance(value, list) else [*value, *value.values()]
    counts = [sizes(item) for item in inner]
    return 1 + sum(count[0] for count in counts), sum(count[1] for count in counts)


@given(value=VALUES)
def test_json_size_of_a_value_counts_what_it_has(value: Any) -> None:
    assert tuple(json_size.json_size(orjson.dumps(value))) == sizes(value)


@pytest.mark.parametrize("translate", OTHER_APIS)
@pytest.mark.parametrize("name", MANY)
def test_body_with_many_objects_is_refused_before_it_is_parsed(
    translate: Translate | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = CHAT + b'"x":[' + MANY[name] * MAX_CONTAINERS + b"1]}"
    assert_refused_unparsed(raw, translate, monkeypatch)


@pytest.mark.parametrize("translate", OTHER_APIS)
@pytest.mark.parametrize("given", [b'"include":["",%b""]}', b'"metadata":{"":"",%b"":""}}'])
def test_body_with_many_strings_is_refused_before_it_is_parsed(
    translate: Translate | None, given: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = b'"":"",' if b"metadata" in given else b'"",'
    assert_refused_unparsed(CHAT + given % (one * MAX_STRINGS), translate, monkeypatch)


def test_text_with_many_brackets_and_quotes_is_accepted() -> None:
    text = '[]{},\\"' * 400_000
    assert not is_too_large(orjson.dumps({"text": text}))
    assert parse(orjson.dumps({"text": text}), endpoint=Endpoint.GENERATE).body["text"] == text


def test_arguments_with_many_lists_are_refused_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "[" + "[]," * 300 + "[]]"
    call = {"id": "c", "type": "function", "function": {"name": "w", "arguments": arguments}}
    few = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    many = {"messages": [few["messages"][0], {**few["messages"][1], "tool_calls": [call] * 300}]}
    assert parse(orjson.dumps(few))
    with pytest.raises(RequestError, match="with the arguments before it, has over 65,536") as refused:
        parse(orjson.dumps(many))
    assert refused.value.status == 413


def test_arguments_of_an_answer_with_many_lists_stay_text() -> None:
    text = '{"a":[' + "[]," * MAX_CONTAINERS + "[]]}"
    assert arguments_of(text) == {"arguments": text}
