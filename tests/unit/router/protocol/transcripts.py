"""Chat completions as SGLang sends them, and the other APIs' events as their clients read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from sun_sglang.router.protocol.sse import DONE, event
from sun_sglang.router.protocol.translation.event_stream import EventStream
from sun_sglang.router.protocol.translation.interface import EventWriter

HEAD = {"id": "a1", "object": "chat.completion.chunk", "created": 7, "model": "math"}
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "reasoning_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 8},
}
ROLE: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": None}


def delta(**members: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def call(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return delta(tool_calls=[{"index": index, "id": f"call_{index}" if name else None, "function": function}])


def finish(reason: str, matched: object = None) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": reason, "matched_stop": matched}]}


def usage() -> dict[str, Any]:
    return {**HEAD, "choices": [], "usage": USAGE}


def whole(reason: str = "stop", matched: object = None, **message: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": reason,
        "matched_stop": matched,
    }
    return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}


def play(writer: EventWriter, chunks: Iterable[dict[str, Any]], last: bytes = DONE) -> list[dict[str, Any]]:
    """Return the events of a stream, and check that each has its type as its name."""
    sent = EventStream(writer).feed(b"".join(map(event, chunks)) + last)
    events = []
    for whole_event in sent.decode().split("\n\n")[:-1]:
        name, data = whole_event.split("\n")
        parsed = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {parsed['type']}"
        events.append(parsed)
    return events
