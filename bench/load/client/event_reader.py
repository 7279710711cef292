"""Count the output tokens of a stream of server-sent events, at a small cost for each read. Pure.

No event is parsed while the answer runs. The number of tokens so far is the last `"completion_tokens":N` among the
events that are complete. JSON escapes a quote inside a string, so no generated text contains these bytes.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson

from sun_sglang.bench.load.client.record import Failure

_COUNT = b'"completion_tokens":'
_DIGITS = re.compile(rb"\s*(\d{1,9})")
# a server that does not count the tokens of each event: an event with some text counts as one
_TEXT = re.compile(rb'"(?:reasoning_)?(?:content|text)":\s*"[^"]')
# of the answer, and not `"prompt_token_ids"`, which the first event of SGLang and vLLM has beside them
_IDS = re.compile(rb'"token_ids":\s*\[([\d,\s]*)\]')
_ID = re.compile(rb"\d{1,9}")
# a generated text may be this word, so events with it are parsed
_MAYBE_ERROR = b'"error"'
_DONE = b"[DONE]"
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")
_MOST_EVENT_BYTES = 8 << 20
_LONGEST_MESSAGE = 500


class EventReader:
    """Reads one answer.

    Args:
        keeps_ids: keep the ids of the output tokens, where the events have them.

    Attributes:
        tokens: output tokens so far.
        ids: their ids, if they are kept; fewer than `tokens` where the server reports none.
        failure: why the answer failed; None while it did not.
    """

    def __init__(self, *, keeps_ids: bool = False) -> None:
        self.tokens = 0
        self.ids = array("i")
        self.failure: Failure | None = None
        self._keeps_ids = keeps_ids
        self._rest = b""
        self._is_done = False
        self._counted_by_server = False
        # the last events: the finish reason, the usage and the end may arrive one by one
        self._recent: deque[bytes] = deque(maxlen=4)

    def feed(self, data: bytes) -> int:
        """Read more bytes of the stream.

        Returns:
            The number of output tokens in the events that these bytes complete.
        """
        block = self._rest + data if self._rest else data
        end = _end_of_events(block)
        if end == 0:
            self._rest = block
            if len(block) > _MOST_EVENT_BYTES:
                self.failure = Failure("stream", f"an event has over {_MOST_EVENT_BYTES} bytes")
            return 0
        self._rest = block[end:]
        events = block[:end] if end < len(block) else block
        self._recent.append(events)
        if _MAYBE_ERROR in events and self.failure is None:
            self.failure = _error_in(events)
        if _DONE in events[-16:]:
            self._is_done = True
        if self._keeps_ids:
            for found in _IDS.finditer(events):
                self.ids.extend(map(int, _ID.findall(found[1])))
        before = self.tokens
        at = events.rfind(_COUNT)
        if at >= 0 and (count := _DIGITS.match(events, at + len(_COUNT))):
            self._counted_by_server = True
            self.tokens = max(before, int(count[1]))
        elif not self._counted_by_server:
            self.tokens += len(_TEXT.findall(events))
        return self.tokens - before

    def usage(self) -> dict[str, Any] | None:
        """Return the usage of the whole request; None where the server sent none."""
        found: dict[str, Any] | None = None
        for event in self._last_events():
            if isinstance(event.get("usage"), dict):
                found = event["usage"]
        return found

    def end(self, wanted: int) -> Failure | None:
        """Return why the answer is not what was asked for, after its last byte; None where it is.

        Args:
            wanted: the number of output tokens.
        """
        if self.failure is not None:
            return self.failure
        if not self._is_done and _DONE not in self._rest:
            return Failure("stream", f"the stream ended after {self.tokens} of {wanted} tokens, without `[DONE]`")
        usage = self.usage()
        made = usage.get("completion_tokens") if usage is not None else None
        if not isinstance(made, int):
            return Failure("no_usage", "the server does not report `usage`: the length of answers is unknown")
        if made != wanted:
            return Failure(
                "wrong_length", f"{made} tokens instead of {wanted}, finish reason `{self._finish_reason()}`"
            )
        return None

    def _finish_reason(self) -> str:
        reasons = [
            choice.get("finish_reason")
            for event in self._last_events()
            for choice in event.get("choices") or ()
            if isinstance(choice, dict)
        ]
        return str(next((reason for reason in reversed(reasons) if reason), "none"))

    def _last_events(self) -> Iterator[dict[str, Any]]:
        for block in self._recent:
            yield from _objects(block)


def _end_of_events(block: bytes) -> int:
    """Return the length of the complete events at the start of a block."""
    for blank in _BLANK_LINES:
        at = block.rfind(blank)
        if at >= 0:
            return at + len(blank)
    return 0


def _objects(events: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of events; what is none is left out."""
    for line in events.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            content = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            continue
        if isinstance(content, dict):
            yield content


def _error_in(events: bytes) -> Failure | None:
    for content in _objects(events):
        if content.get("error") or content.get("object") == "error":
            return Failure("stream", error_text(content))
    return None


def error_text(content: Any) -> str:
    """Return the message of an error in OpenAI's or SGLang's form, in one short line."""
    inner = content.get("error", content) if isinstance(content, dict) else content
    message = inner.get("message", inner) if isinstance(inner, dict) else inner
    text = message if isinstance(message, str) else orjson.dumps(message).decode()
    return shortened(text)


def shortened(text: str) -> str:
    """Return a server's text as one line of printable characters, of a bounded length."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(line[: 2 * _LONGEST_MESSAGE].split())[:_LONGEST_MESSAGE]
