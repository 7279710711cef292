"""Server-sent events as bytes: framing, reading, and what a stream is watched for while it passes through. Pure.

Events are read line by line, as the specification says (https://html.spec.whatwg.org/multipage/server-sent-events.html):
a line ends with LF, CRLF or CR, a blank line ends an event, and its `data` lines together are its data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any

import orjson

from sun_sglang.router.protocol.worker_replies import (
    BadReplyError,
    TokenCounts,
    abort_reason,
    parse_json,
    parse_result,
    token_counts,
)

DONE_DATA = b"[DONE]"
DONE = b"data: [DONE]\n\n"
# A /generate event repeats the whole answer: 16,000 tokens with their 128 best alternatives each are 60 MB.
MAX_EVENT_BYTES = 64 << 20

_BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n){2}")
# JSON escapes the quotes inside its strings: a text of a model can equal one of these and not hold it.
_MARKERS = (b'"error"', b'"abort"', b'"choices":[]')


class EventKind(Enum):
    """What an event of an answer is."""

    RESULT = auto()
    USAGE = auto()
    ERROR = auto()
    ABORT = auto()


class EventFramer:
    """Cuts a byte stream into whole events, each with its blank line.

    Memory is bounded by one event and one chunk, and each byte is searched once.

    Args:
        most: bytes of an event; None for `MAX_EVENT_BYTES`.

    Attributes:
        rest: the beginning of an event that is not whole yet.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = MAX_EVENT_BYTES if most is None else most
        self.rest = bytearray()
        self._searched = 0
        self._only_lf = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the events that `chunk` completes. Whoever does not take all of them is done with the stream.

        Raises:
            BadReplyError: the event after them has more than `most` bytes.
        """
        self._only_lf = self._only_lf and b"\r" not in chunk
        self.rest += chunk
        start = 0
        while (end := self._blank_line()) >= 0:
            yield bytes(self.rest[start:end])
            start = self._searched = end
        # the first line end of a blank line may be here already: at most three bytes of `\r\n\r\n`
        self._searched = max(0, len(self.rest) - start - 3)
        del self.rest[:start]
        if len(self.rest) > self._most:
            raise BadReplyError(f"the decode worker sent an event of over {self._most} bytes")

    def _blank_line(self) -> int:
        """The position after the next blank line; -1 if none has come."""
        if self._only_lf:
            found = self.rest.find(b"\n\n", self._searched)
            return found + 2 if found >= 0 else -1
        match = _BLANK_LINE.search(self.rest, self._searched)
        return match.end() if match else -1


class StreamFilter:
    """Watches one answer's stream on its way to the client.

    Nearly every chunk passes as it came, unparsed: it begins and ends as an event of one JSON object does, so `[DONE]`
    is not its last event, and it holds no marker. Any other chunk is taken apart. A marker that means nothing costs a
    parse and changes nothing.

    Args:
        strip_usage: drop the usage event, because the client did not ask for one.
        rewrite: applied to the data of every result, where something in it has to change.

    Attributes:
        done: the stream ended as it should.
        error: the data of an error event, which ends the stream.
        aborted: the worker ended the answer with an abort; holds the event's data.
        bad: what came that is no part of an answer, which ends the stream.
        usage: the usage that the stream reported.
    """

    def __init__(self, *, strip_usage: bool = False, rewrite: Callable[[bytes], bytes] | None = None) -> None:
        self.strip_usage = strip_usage
        self.rewrite = rewrite
        self.done = False
        self.error: bytes | None = None
        self.aborted: bytes | None = None
        self.bad: BadReplyError | None = None
        self.usage: dict[str, Any] | None = None
        self._last = b""
        self._framer = EventFramer()

    def feed(self, chunk: bytes) -> bytes:
        """Return what to write to the client for this chunk; may be empty. Nothing comes after what ends the stream."""
        if (
            self.rewrite is None
            and not self._framer.rest
            and chunk.startswith(b"data: {")
            and chunk.endswith(b"}\n\n")
            and b'"choices":[]' not in chunk
            and b'"error"' not in chunk
            and b'"abort"' not in chunk
        ):
            self._last = chunk
            return chunk
        passed = []
        try:
            for whole in self._framer.feed(chunk):
                if self.ended:
                    break
                passed.append(self._pass(whole))
        except BadReplyError as bad:
            self.bad = bad
        return b"".join(passed)

    @property
    def ended(self) -> bool:
        """Nothing more can come."""
        return self.done or not (self.error is None and self.aborted is None and self.bad is None)

    def tokens(self) -> TokenCounts:
        """Token counts: the usage's, else those of the last result."""
        if self.usage is not None:
            return token_counts(self.usage)
        events = list(EventFramer().feed(self._last))
        return token_counts(parse_json(event_data(events[-1])) if events else None)

    def _pass(self, whole: bytes) -> bytes:
        data = event_data(whole)
        if not data:
            return whole
        if data == DONE_DATA:
            self.done = True
            return DONE
        if not (data.startswith(b"{") and data.endswith(b"}")) or any(marker in data for marker in _MARKERS):
            result = parse_result(data)
            kind = event_kind(result)
            if kind is EventKind.ERROR:
                self.error = orjson.dumps(result)
                return b""
            if kind is EventKind.ABORT:
                self.aborted = orjson.dumps(result)
                return b""
            if kind is EventKind.USAGE:
                self.usage = result["usage"]
                return b"" if self.strip_usage else self._show(whole, data)
        self._last = whole
        return self._show(whole, data)

    def _show(self, whole: bytes, data: bytes) -> bytes:
        return whole if self.rewrite is None else frame(self.rewrite(data))


def contains_event_end(data: bytes) -> bool:
    """Whether an event ends in these bytes."""
    return b"\n\n" in data or (b"\r" in data and _BLANK_LINE.search(data) is not None)


def event_data(event: bytes) -> bytes:
    """The data of one event: its `data` lines, joined by LF; empty where it has none (a comment, say)."""
    lines = []
    for line in event.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def event_kind(result: dict[str, Any]) -> EventKind:
    """What an event is that `read_result` returned."""
    if result.get("error") is not None or result.get("object") == "error":
        return EventKind.ERROR
    if abort_reason(result) is not None:
        return EventKind.ABORT
    if result.get("choices") == [] and result.get("usage") is not None and not result.get("sglext"):
        return EventKind.USAGE
    return EventKind.RESULT


def frame(data: bytes) -> bytes:
    """An event with this data, which is one line."""
    return b"data: " + data + b"\n\n"


def event(data: dict[str, Any]) -> bytes:
    """An event with this data."""
    return frame(orjson.dumps(data))
