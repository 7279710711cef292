"""Answers in the API that the client called: a chat completion, or its translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.translation.event_stream import EventStream
from sun_sglang.router.protocol.translation.interface import AnswerAbortedError, Translation
from sun_sglang.router.protocol.worker_replies import BadReplyError

_WRITE_BYTES = 1 << 16
_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def new_stream(translation: Translation | None) -> web.StreamResponse:
    """Return the response for a streamed answer, to which the events of SGLang's API are written.

    Args:
        translation: of the request; None if the client called SGLang's API itself.
    """
    if translation is None:
        return web.StreamResponse(headers=_SSE)
    return _TranslatedStream(EventStream(translation.writer()))


def translated_whole(translation: Translation, result: Mapping[str, Any]) -> bytes:
    """Return the body for a whole chat completion.

    Raises:
        ApiError: 502, the decode worker's answer cannot be read; 400, the client aborted it, and its API has no form
            for a part of an answer.
    """
    try:
        return orjson.dumps(translation.whole(result))
    except BadReplyError as e:
        raise ApiError(502, str(e), code="decode_failed") from e
    except AnswerAbortedError as e:
        raise ApiError(400, str(e), code="aborted") from e


class _TranslatedStream(web.StreamResponse):
    """A streamed response in another API: what is written is the stream of a chat completion."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(headers=_SSE)
        self._stream = stream

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the events that the data yields; there may be none.

        Raises:
            BadReplyError: the stream cannot be read; the client has received the error.
        """
        waiting = bytearray()
        try:
            for event in self._stream.feed(bytes(data)):
                waiting += event
                # the last events of a long response repeat it: they are not all in memory at once
                if len(waiting) >= _WRITE_BYTES:
                    await self._write_all(waiting)
        except BadReplyError:
            await self._write_all(waiting)
            raise
        await self._write_all(waiting)

    async def _write_all(self, waiting: bytearray) -> None:
        if waiting:
            data = bytes(waiting)
            waiting.clear()
            await super().write(data)
