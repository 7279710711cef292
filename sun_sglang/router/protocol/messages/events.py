"""The events of a streamed message, as a state machine over the chunks of a chat completion. Pure.

    message_start, ping
    for each block, in order:  content_block_start, content_block_delta, ..., content_block_stop
    message_delta, message_stop | error

A new kind of step closes the open block. The machine keeps no text but what `StepOrder` and `CallInput` hold back.
SGLang's first chunk has only the role, and the next one has the usage of the prompt: `message_start` waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sun_sglang.router.protocol.messages.call_input import CallInput
from sun_sglang.router.protocol.messages.errors import error_event
from sun_sglang.router.protocol.messages.reply import ABORTED, new_call, new_message, stop_of, usage_of
from sun_sglang.router.protocol.translation.step_order import Arguments, Call, OrderedStep, StepOrder
from sun_sglang.router.protocol.translation.steps import Finish, Reasoning, Text, Usage, read_steps

_Event = dict[str, Any]


class MessageEvents:
    """One streamed message.

    Args:
        stops: the client's stop sequences.
    """

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = stops
        self._head: Mapping[str, Any] | None = None
        self._id: str | None = None
        self._order = StepOrder()
        self._index = -1
        self._open: str | None = None
        self._input = CallInput()
        self._calls = False
        self._usage = Usage(0, 0, 0, 0)
        self._finish: Finish | None = None

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[_Event]:
        """Yield the events for a chunk."""
        steps = tuple(read_steps(chunk))
        for step in steps:
            if isinstance(step, Usage):
                self._usage = step
        if self._head is None:
            self._head = chunk
        if self._id is None and steps:
            yield from self._begin(self._head)
        for step in steps:
            for ordered in self._order.feed(step):
                yield from self._events(ordered)

    def end(self) -> Iterator[_Event]:
        """Yield the events that end a complete stream."""
        if self._id is None:
            yield from self._begin(self._head or {})
        for step in self._order.end():
            yield from self._events(step)
        yield from self._close()
        if self._finish is not None and self._finish.reason == "abort":
            yield error_event({"message": ABORTED, "type": "invalid_request_error"})
            return
        delta = stop_of(self._finish, self._stops, calls=self._calls)
        yield {"type": "message_delta", "delta": delta, "usage": usage_of(self._usage)}
        yield {"type": "message_stop"}

    def fail(self, error: Mapping[str, Any]) -> Iterator[_Event]:
        """Yield the event that ends a stream with an error."""
        yield error_event(error)

    def _begin(self, chunk: Mapping[str, Any]) -> Iterator[_Event]:
        message = new_message(chunk, self._usage)
        self._id = message["id"]
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}

    def _events(self, step: OrderedStep) -> Iterator[_Event]:
        match step:
            case Reasoning(text):
                if self._open != "thinking":
                    yield from self._switch({"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": text})
            case Text(text) if text:
                if self._open != "text":
                    yield from self._switch({"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": text})
            case Call(id_, name):
                self._calls = True
                yield from self._switch(new_call(id_, name, str(self._id), self._index + 1))
                self._input = CallInput()
            case Arguments(text):
                yield from self._input_delta(self._input.feed(text))
            case Finish():
                self._finish = step

    def _switch(self, block: dict[str, Any]) -> Iterator[_Event]:
        yield from self._close()
        self._index += 1
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _input_delta(self, json: str) -> Iterator[_Event]:
        if json:
            yield self._delta({"type": "input_json_delta", "partial_json": json})

    def _close(self) -> Iterator[_Event]:
        if self._open == "tool_use":
            yield from self._input_delta(self._input.end())
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: dict[str, Any]) -> _Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}
