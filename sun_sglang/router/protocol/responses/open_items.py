"""The items of a streamed response while they grow: each yields the events of its beginning, growth and end. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any, Protocol

from sun_sglang.router.protocol.responses.reply import (
    call_item,
    logprobs_json,
    message_item,
    reasoning_item,
    reasoning_part,
    text_part,
)

_Event = dict[str, Any]


class OpenItem(Protocol):
    """An item that grows."""

    def begin(self) -> Iterator[_Event]:
        """Yield the events before the first text."""

    def append(self, text: str, logprobs: bytes = b"") -> _Event:
        """Add text and return its event.

        Args:
            text: the text.
            logprobs: entries of its tokens, as in `steps.Text`.
        """

    def end(self, status: str) -> Iterator[_Event]:
        """Yield the events after the last text."""

    def item(self, status: str) -> dict[str, Any]:
        """Return the item."""


class OpenText:
    """Text of the answer.

    Args:
        id_: id of the item.
        index: its position in the output.
    """

    def __init__(self, id_: str, index: int) -> None:
        self._id = id_
        self._item = {"item_id": id_, "output_index": index}
        self._part = {**self._item, "content_index": 0}
        self._index = index
        # a list of pieces would take 60 bytes for each token
        self._text = StringIO()
        self._logprobs = bytearray()

    def begin(self) -> Iterator[_Event]:
        """Yield the events before the first text."""
        yield _added(message_item(self._id, "in_progress", ()), self._index)
        yield {"type": "response.content_part.added", **self._part, "part": text_part("")}

    def append(self, text: str, logprobs: bytes = b"") -> _Event:
        """Add text and return its event."""
        self._text.write(text)
        if logprobs:
            self._logprobs += b"," + logprobs if self._logprobs else logprobs
        shown = logprobs_json(logprobs)
        return {"type": "response.output_text.delta", **self._part, "delta": text, "logprobs": shown}

    def end(self, status: str) -> Iterator[_Event]:
        """Yield the events after the last text."""
        text, logprobs = self._text.getvalue(), logprobs_json(self._logprobs)
        yield {"type": "response.output_text.done", **self._part, "text": text, "logprobs": logprobs}
        yield {"type": "response.content_part.done", **self._part, "part": text_part(text, self._logprobs)}
        yield _done(self.item(status), self._index)

    def item(self, status: str) -> dict[str, Any]:
        """Return the item."""
        return message_item(self._id, status, [text_part(self._text.getvalue(), self._logprobs)])


class OpenReasoning:
    """Reasoning.

    Args:
        id_: id of the item.
        index: its position in the output.
    """

    def __init__(self, id_: str, index: int) -> None:
        self._id = id_
        self._part = {"item_id": id_, "output_index": index, "content_index": 0}
        self._index = index
        self._text = StringIO()

    def begin(self) -> Iterator[_Event]:
        """Yield the events before the first text."""
        yield _added(reasoning_item(self._id, "in_progress", None), self._index)
        yield {"type": "response.content_part.added", **self._part, "part": reasoning_part("")}

    def append(self, text: str, logprobs: bytes = b"") -> _Event:
        """Add text and return its event."""
        self._text.write(text)
        return {"type": "response.reasoning_text.delta", **self._part, "delta": text}

    def end(self, status: str) -> Iterator[_Event]:
        """Yield the events after the last text."""
        text = self._text.getvalue()
        yield {"type": "response.reasoning_text.done", **self._part, "text": text}
        yield {"type": "response.content_part.done", **self._part, "part": reasoning_part(text)}
        yield _done(self.item(status), self._index)

    def item(self, status: str) -> dict[str, Any]:
        """Return the item."""
        return reasoning_item(self._id, status, self._text.getvalue())


class OpenCall:
    """A call of a function.

    Args:
        id_: id of the item.
        index: its position in the output.
        call_id: to which the client's `function_call_output` refers.
        name: of the function.
    """

    def __init__(self, id_: str, index: int, call_id: str, name: str) -> None:
        self._id = id_
        self._place = {"item_id": id_, "output_index": index}
        self._index = index
        self._call_id = call_id
        self._name = name
        self._arguments = StringIO()

    def begin(self) -> Iterator[_Event]:
        """Yield the events before the first argument."""
        yield _added(self.item("in_progress"), self._index)

    def append(self, text: str, logprobs: bytes = b"") -> _Event:
        """Add to the arguments and return the event."""
        self._arguments.write(text)
        return {"type": "response.function_call_arguments.delta", **self._place, "delta": text}

    def end(self, status: str) -> Iterator[_Event]:
        """Yield the events after the last argument."""
        if status == "completed" and not self._arguments.tell():
            # workers send no arguments for some functions without parameters, and clients parse them as JSON
            yield self.append("{}")
        arguments = self._arguments.getvalue()
        done = {"name": self._name, "arguments": arguments}
        yield {"type": "response.function_call_arguments.done", **self._place, **done}
        yield _done(self.item(status), self._index)

    def item(self, status: str) -> dict[str, Any]:
        """Return the item."""
        return call_item(self._id, status, self._call_id, self._name, self._arguments.getvalue())


def _added(item: dict[str, Any], index: int) -> _Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _done(item: dict[str, Any], index: int) -> _Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}
