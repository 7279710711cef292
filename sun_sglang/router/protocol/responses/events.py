"""The events of a streamed response, as a state machine over the chunks of a chat completion. Pure.

    response.created, response.in_progress
    for each item, in order:  output_item.added, its parts and deltas, output_item.done
    response.completed | response.incomplete | error, response.failed

A new kind of step closes the open item. The last event repeats the answer, so the machine keeps it; `StepOrder` bounds
its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sun_sglang.router.protocol.responses.open_items import OpenCall, OpenItem, OpenReasoning, OpenText
from sun_sglang.router.protocol.responses.reply import ResponseEcho, final_status
from sun_sglang.router.protocol.translation.step_order import Arguments, Call, OrderedStep, StepOrder
from sun_sglang.router.protocol.translation.steps import Finish, Reasoning, Text, Usage, read_head, read_steps

_Event = dict[str, Any]


class ResponseEvents:
    """One streamed response.

    Args:
        echo: the part of the response that repeats the request.
    """

    def __init__(self, echo: ResponseEcho) -> None:
        self._echo = echo
        self._head: dict[str, Any] = {}
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: OpenItem | None = None
        self._order = StepOrder()
        self._usage: Usage | None = None
        self._finish = ""

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[_Event]:
        """Yield the events for a chunk, or for a whole chat completion."""
        if not self._head:
            yield from self._begin(chunk)
        for step in read_steps(chunk):
            for ordered in self._order.feed(step):
                yield from map(self._numbered, self._events(ordered))

    def end(self) -> Iterator[_Event]:
        """Yield the events that end a complete stream."""
        if not self._head:
            yield from self._begin({})
        yield from map(self._numbered, self._complete())
        response = self.final_response()
        yield self._numbered({"type": f"response.{response['status']}", "response": response})

    def fail(self, error: Mapping[str, Any]) -> Iterator[_Event]:
        """Yield the events that end a stream with an error."""
        if not self._head:
            yield from self._begin({})
        yield from map(self._numbered, self._close("incomplete"))
        code, param = error.get("code"), error.get("param")
        yield self._numbered(
            {
                "type": "error",
                "message": str(error.get("message")),
                "code": None if code is None else str(code),
                "param": None if param is None else str(param),
            }
        )
        response = self._echo.response(self._head, "failed", self._output, usage=self._usage, error=error)
        yield self._numbered({"type": "response.failed", "response": response})

    def final_response(self) -> dict[str, Any]:
        """Return the response to a complete answer."""
        for _ in self._complete():
            pass
        status = final_status(self._finish)
        return self._echo.response(self._head, status, self._output, usage=self._usage, finish=self._finish)

    def _complete(self) -> Iterator[_Event]:
        """End the last item. An empty answer has one empty item, as OpenAI's."""
        for step in self._order.end():
            yield from self._events(step)
        if self._open is None and not self._output:
            yield from self._switch(OpenText(*self._place("msg")))
        yield from self._close(final_status(self._finish))

    def _begin(self, chunk: Mapping[str, Any]) -> Iterator[_Event]:
        head = read_head(chunk)
        self._head = {"id": f"resp_{head.id}", "created_at": head.created, "model": head.model}
        for kind in ("response.created", "response.in_progress"):
            yield self._numbered({"type": kind, "response": self._echo.response(self._head, "in_progress")})

    def _events(self, step: OrderedStep) -> Iterator[_Event]:
        match step:
            case Reasoning(text):
                if not isinstance(self._open, OpenReasoning):
                    yield from self._switch(OpenReasoning(*self._place("rs")))
                yield self._grown().append(text)
            case Text(text, logprobs):
                if not isinstance(self._open, OpenText):
                    yield from self._switch(OpenText(*self._place("msg")))
                yield self._grown().append(text, logprobs)
            case Call(id_, name):
                place = self._place("fc")
                yield from self._switch(OpenCall(*place, id_ or f"call_{place[0]}", name))
            case Arguments(text):
                yield self._grown().append(text)
            case Finish(reason):
                self._finish = reason
            case Usage():
                self._usage = step

    def _grown(self) -> OpenItem:
        assert self._open is not None, "an item was opened for the step"
        return self._open

    def _place(self, prefix: str) -> tuple[str, int]:
        """Return the id and the index of the next item."""
        index = len(self._output) + (self._open is not None)
        return f"{prefix}_{self._head['id'].removeprefix('resp_')}_{index}", index

    def _switch(self, item: OpenItem) -> Iterator[_Event]:
        yield from self._close("completed")
        self._open = item
        yield from item.begin()

    def _close(self, status: str) -> Iterator[_Event]:
        if self._open is not None:
            item, self._open = self._open, None
            yield from item.end(status)
            self._output.append(item.item(status))

    def _numbered(self, event: _Event) -> _Event:
        event["sequence_number"] = self._number
        self._number += 1
        return event
