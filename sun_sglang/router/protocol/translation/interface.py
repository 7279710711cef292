"""The interface of a translation: a request of another API as a chat completion, and its answer in that API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol


class AnswerAbortedError(Exception):
    """The client aborted an answer that its API has no form for. The text is for the client."""


class EventWriter(Protocol):
    """A state machine that turns the chunks of one streamed chat completion into events of another API.

    An event is an object with a `type`, which is also its name in the stream.
    """

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events for a chunk, which may also be the usage at the end.

        Raises:
            BadReplyError: the chunk is no part of an answer, or the answer is too long.
        """

    def fail(self, error: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events that end a stream with an error in OpenAI's format (`message`, `type`, `code`, `param`)."""

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield the events that end a complete stream."""


class Translation(Protocol):
    """One request of another API.

    Attributes:
        body: the chat completion's body, which is checked as a client's.
        names: fields of a chat completion that have another name in the client's API, with that name, for errors.
    """

    names: ClassVar[Mapping[str, str]]

    @property
    def body(self) -> dict[str, Any]:
        """See the class."""

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole answer. orjson can serialise it: parts of it may be JSON already.

        Raises:
            BadReplyError: it is not an answer, or too long.
            AnswerAbortedError: the client aborted it, and the API has no form for that.
        """

    def writer(self) -> EventWriter:
        """Return a new state machine for a streamed answer."""
