"""The events of other APIs' streams, validated against their clients' types and put together as their clients do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import orjson
from anthropic.types import ErrorResponse, Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_Event = dict[str, Any]


def _by_type(union: object) -> dict[str, TypeAdapter[Any]]:
    """Return the members of a union by the value of their `type`, which is faster than to validate the union."""
    models = get_args(get_args(union)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: TypeAdapter(model) for model in models}


_RESPONSE_EVENTS = _by_type(ResponseStreamEvent)
_MESSAGE_EVENTS = {**_by_type(RawMessageStreamEvent), "error": TypeAdapter(ErrorResponse)}


def response_of(events: Sequence[_Event]) -> _Event:
    """Return the response of a complete stream, and check that its events add up to it."""
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        _RESPONSE_EVENTS[event["type"]].validate_python(event, strict=True)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    last: _Event = events[-1]["response"]
    failed = last["status"] == "failed"
    assert events[-1]["type"] == f"response.{last['status']}"
    assert (events[-2]["type"] == "error") is failed
    Response.model_validate(last, strict=True)
    assert last["output"] == _items(events[2 : -2 if failed else -1])
    return last


def _items(events: Iterable[_Event]) -> list[_Event]:
    """Return the items of a response, each of which ends before the next begins."""
    items: list[_Event] = []
    opened: _Event | None = None
    deltas: list[str] = []
    entries: list[_Event] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(items)
        if kind == "output_item.added":
            assert opened is None
            opened, deltas, entries = event["item"], [], []
            continue
        assert opened is not None
        assert event.get("item_id", opened["id"]) == opened["id"]
        if kind.endswith(".delta"):
            deltas.append(event["delta"])
            entries += event.get("logprobs", ())
        elif kind == "output_item.done":
            item = event["item"]
            content = item.get("content")
            assert [item["id"], item["type"]] == [opened["id"], opened["type"]]
            assert (item["arguments"] if content is None else content[0]["text"]) == "".join(deltas)
            assert content is None or content[0].get("logprobs", []) == entries
            items.append(item)
            opened = None
    assert opened is None
    return items


def message_of(events: Sequence[_Event]) -> _Event | None:
    """Return the message of a complete stream, and check its events; None for one that ends with an error."""
    for event in events:
        if event["type"] != "ping":
            _MESSAGE_EVENTS[event["type"]].validate_python(event, strict=True)
    kinds = [event["type"] for event in events]
    if kinds[-1] == "error":
        assert kinds.count("error") == 1
        _blocks(events[2:-1], cut=True)
        return None
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    ended = events[-2]
    message = {**events[0]["message"], "content": _blocks(events[2:-2]), **ended["delta"], "usage": ended["usage"]}
    Message.model_validate(message, strict=True)
    return message


def _blocks(events: Iterable[_Event], *, cut: bool = False) -> list[_Event]:
    """Return the blocks of a message, each of which ends before the next begins."""
    blocks: list[_Event] = []
    deltas: list[str] | None = None
    for event in events:
        kind = event["type"]
        if kind == "content_block_start":
            assert deltas is None
            blocks.append(dict(event["content_block"]))
            deltas = []
        assert event["index"] == len(blocks) - 1
        assert deltas is not None
        if kind == "content_block_delta":
            names = {"thinking": "thinking", "text": "text", "tool_use": "partial_json"}
            deltas.append(event["delta"][names[blocks[-1]["type"]]])
        elif kind == "content_block_stop":
            _complete(blocks[-1], "".join(deltas))
            deltas = None
    assert cut or deltas is None
    return blocks


def _complete(block: _Event, text: str) -> None:
    if block["type"] != "tool_use":
        block[block["type"]] = text
        return
    try:
        block["input"] = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        block["input"] = {"arguments": text}
    assert isinstance(block["input"], dict)
