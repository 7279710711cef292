"""Chat completions as SGLang sends them, and the other APIs' events as their clients read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from sun_sglang.router.protocol.sse import DONE, event
from sun_sglang.router.protocol.translation.event_stream import EventStream
from sun_sglang.router.protocol.translation.interface import EventWriter
from sun_sglang.router.protocol.worker_replies import BadReplyError

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


def read(writer: EventWriter, *pieces: bytes) -> Iterator[bytes]:
    """Yield the events of a stream that arrives in pieces. It may end because it cannot be read."""
    stream = EventStream(writer)
    with suppress(BadReplyError):
        for piece in pieces:
            yield from stream.feed(piece)


def play(writer: EventWriter, chunks: Iterable[dict[str, Any]], last: bytes = DONE) -> list[dict[str, Any]]:
    """Return the events of a stream, and check that each has its type as its name."""
    events = []
    for sent in read(writer, b"".join(map(event, chunks)) + last):
        whole_event = sent.decode().removesuffix("\n\n")
        name, data = whole_event.split("\n")
        parsed = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {parsed['type']}"
        events.append(parsed)
    return events
