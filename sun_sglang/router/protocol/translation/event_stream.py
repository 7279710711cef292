"""Translate the bytes of a streamed chat completion into the bytes of another API's stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from sun_sglang.router.protocol.sse import DONE_DATA, EventFramer, event_data
from sun_sglang.router.protocol.translation.interface import EventWriter
from sun_sglang.router.protocol.worker_replies import BadReplyError, parse_result

_UNREADABLE = {"message": "the router could not read the answer", "type": "server_error", "code": "decode_failed"}


class EventStream:
    """Translates one stream. It keeps one incomplete event, and what the state machine keeps.

    Args:
        writer: the state machine of the other API.

    Attributes:
        ended: the stream has ended, well or not; nothing follows.
    """

    def __init__(self, writer: EventWriter) -> None:
        self.ended = False
        self._writer = writer
        self._framer = EventFramer()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the events for the client that a chunk yields; there may be none.

        Raises:
            BadReplyError: after the events that tell the client that the answer cannot be read. Nothing follows.
        """
        try:
            for whole in self._framer.feed(chunk):
                if self.ended:
                    break
                yield from map(_frame, self._events(event_data(whole)))
        except BadReplyError as bad:
            self.ended = True
            yield from map(_frame, self._writer.fail({**_UNREADABLE, "message": str(bad)}))
            raise

    def _events(self, data: bytes) -> Iterable[dict[str, Any]]:
        if not data:
            return ()
        if data == DONE_DATA:
            self.ended = True
            return self._writer.end()
        result = parse_result(data)
        error = result.get("error")
        if error is not None or result.get("object") == "error":
            self.ended = True
            return self._writer.fail(error if isinstance(error, dict) else result)
        return self._writer.chunk(result)


def _frame(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
