"""Server-sent events as bytes: split a stream into events, read them, and filter them on their way to a client. Pure.

Events are read line by line, as the specification requires
(https://html.spec.whatwg.org/multipage/server-sent-events.html): a line ends with LF, CRLF or CR, a blank line ends an
event, and its `data` lines together are its data.
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
# An event of /generate repeats the whole answer: 16,000 tokens, each with its 128 best alternatives, take 60 MB.
MAX_EVENT_BYTES = 64 << 20

_BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n){2}")
# JSON escapes quotes inside strings, so no text that a model generates contains one of these.
_MARKERS = (b'"error"', b'"abort"', b'"choices":[]')


class EventKind(Enum):
    """The kinds of events in an answer."""

    RESULT = auto()
    USAGE = auto()
    ERROR = auto()
    ABORT = auto()


class EventFramer:
    """Splits a byte stream into complete events, each with its blank line.

    Memory is bounded by one event and one chunk, and each byte is searched once.

    Args:
        most: the most bytes of an event; None for `MAX_EVENT_BYTES`.

    Attributes:
        rest: the beginning of an incomplete event.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = MAX_EVENT_BYTES if most is None else most
        self.rest = bytearray()
        self._searched = 0
        self._only_lf = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the events that a chunk completes. A caller that does not consume all of them must drop the stream.

        Raises:
            BadReplyError: the incomplete event after them has more than `most` bytes.
        """
        self._only_lf = self._only_lf and b"\r" not in chunk
        self.rest += chunk
        start = 0
        while (end := self._blank_line()) >= 0:
            yield bytes(self.rest[start:end])
            start = self._searched = end
        # the last bytes may be the beginning of a blank line: at most three bytes of `\r\n\r\n`
        self._searched = max(0, len(self.rest) - start - 3)
        del self.rest[:start]
        if len(self.rest) > self._most:
            raise BadReplyError(f"the decode worker sent an event of over {self._most} bytes")

    def _blank_line(self) -> int:
        """Return the position after the next blank line; -1 if there is none."""
        if self._only_lf:
            found = self.rest.find(b"\n\n", self._searched)
            return found + 2 if found >= 0 else -1
        match = _BLANK_LINE.search(self.rest, self._searched)
        return match.end() if match else -1


class StreamFilter:
    """Passes one answer's stream on to the client and detects its end, errors and usage.

    Nearly every chunk passes unparsed: it begins and ends like an event of one JSON object, so its last event is not
    `[DONE]`, and it contains no marker. Any other chunk is split into events. A marker without a meaning costs a parse
    and changes nothing.

    Args:
        strip_usage: drop the usage event, because the client did not ask for one.
        rewrite: converts the data of each result; None if nothing in it changes.

    Attributes:
        done: the stream ended with `[DONE]`.
        error: the data of an error event, which ends the stream; None without one.
        aborted: the data of the event with which the worker aborted the answer; None without one.
        bad: describes data that is not part of an answer, which ends the stream; None without such data.
        usage: the usage that the stream reported; None without one.
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
        """Return the bytes for the client that a chunk yields; may be empty. Nothing follows the end of the stream."""
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
        """Whether the stream has ended, well or not."""
        return self.done or not (self.error is None and self.aborted is None and self.bad is None)

    def tokens(self) -> TokenCounts:
        """Return the token counts of the usage, or of the last result if the stream reported no usage."""
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
    """Return whether an event ends within these bytes."""
    return b"\n\n" in data or (b"\r" in data and _BLANK_LINE.search(data) is not None)


def event_data(event: bytes) -> bytes:
    """Return the data of one event: its `data` lines joined by LF; empty if it has none, such as a comment."""
    lines = []
    for line in event.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def event_kind(result: dict[str, Any]) -> EventKind:
    """Return the kind of an event whose data `parse_result` returned."""
    if result.get("error") is not None or result.get("object") == "error":
        return EventKind.ERROR
    if abort_reason(result) is not None:
        return EventKind.ABORT
    if result.get("choices") == [] and result.get("usage") is not None and not result.get("sglext"):
        return EventKind.USAGE
    return EventKind.RESULT


def frame(data: bytes) -> bytes:
    """Return an event with this data, which is one line."""
    return b"data: " + data + b"\n\n"


def event(data: dict[str, Any]) -> bytes:
    """Return an event with this data as JSON."""
    return frame(orjson.dumps(data))
