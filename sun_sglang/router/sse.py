"""Server-sent events as bytes: framing, and what a stream has to be watched for while it passes through. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from sun_sglang.router.replies import finish_abort, parse

DONE = b"data: [DONE]\n\n"
_END = b"\n\n"


class Framer:
    """Cuts a byte stream into whole events."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, each with its blank line."""
        *whole, self.rest = (self.rest + chunk).split(_END)
        return [event + _END for event in whole if event]


class Watch:
    """Watches one answer's stream on its way to the client.

    Nearly every chunk passes as it came: a chunk is taken apart only when it may hold the end, an error, an abort, or
    the usage that the router asked for. JSON text escapes its quotes, so the markers below cannot be forged by what a
    model writes; a false alarm costs a parse and changes nothing.

    Args:
        strip_usage: drop the usage event, because the client did not ask for one.
        rewrite: applied to every event that is passed on, where names in it have to change.

    Attributes:
        done: the stream ended as it should.
        error: the data of an error event, which ends the stream.
        aborted: the worker ended the answer with an abort; holds the event's data.
        usage: the usage that the stream reported.
        last: data of the last event that carried a result.
    """

    def __init__(self, *, strip_usage: bool = False, rewrite: Callable[[bytes], bytes] | None = None) -> None:
        self.strip_usage = strip_usage
        self.rewrite = rewrite
        self.done = False
        self.error: bytes | None = None
        self.aborted: bytes | None = None
        self.usage: dict[str, Any] | None = None
        self.last = b""
        self._framer = Framer()

    def feed(self, chunk: bytes) -> bytes:
        """What to write to the client for this chunk; may be empty. Nothing after an error, an abort or the end."""
        if (
            self.rewrite is None
            and not self._framer.rest
            and chunk.endswith(_END)
            and b"[DONE]" not in chunk
            and b'"choices":[]' not in chunk
            and b'data: {"error"' not in chunk
            and b'"abort"' not in chunk
        ):
            self.last = chunk
            return chunk
        return b"".join(self._pass(event) for event in self._framer.feed(chunk) if not self.ended)

    @property
    def ended(self) -> bool:
        """Nothing more can come."""
        return self.done or self.error is not None or self.aborted is not None

    def _pass(self, event: bytes) -> bytes:
        if event == DONE:
            self.done = True
            return event
        data = event_data(event)
        if data.startswith(b'{"error"'):
            self.error = data
            return b""
        if finish_abort(data) is not None:
            self.aborted = data
            return b""
        if b'"choices":[]' in data and (usage := _usage_only(data)) is not None:
            self.usage = usage
            if self.strip_usage:
                return b""
        else:
            self.last = event
        return self.rewrite(event) if self.rewrite else event


def event_data(event: bytes) -> bytes:
    """The data of the last event in `event`."""
    start = event.rfind(b"data: ")
    return event[start + 6 :].rstrip() if start >= 0 else b""


def event(data: dict[str, Any]) -> bytes:
    """An event with this data."""
    return b"data: " + orjson.dumps(data) + _END


def _usage_only(data: bytes) -> dict[str, Any] | None:
    parsed = parse(data)
    if not isinstance(parsed, dict):
        return None
    if parsed.get("choices") == [] and isinstance(parsed.get("usage"), dict) and not parsed.get("sglext"):
        usage: dict[str, Any] = parsed["usage"]
        return usage
    return None
