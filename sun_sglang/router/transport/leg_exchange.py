"""One leg: a request to a worker and its response, over an idle or a new connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sun_sglang.router.protocol import sse
from sun_sglang.router.transport.connection import Connection
from sun_sglang.router.transport.connection_pool import Origin
from sun_sglang.router.transport.errors import BrokenError, ExhaustedError, LegError, NotConnectedError
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult

# Unread bytes of a stream at which the router stops reading from the worker.
_BACKLOG = 1 << 18
# Memory of a piece besides its bytes. A chunked response may arrive in pieces of one byte.
_PIECE_BYTES = 48
# Bound of a response that no client receives: a card, or the reply to an abort.
MAX_REPLY_BYTES = 1 << 20


class LegExchange:
    """Sends a request when it is constructed, and receives the response.

    The request is sent once. uvicorn closes an idle connection without notice, so a request on a kept connection may be
    lost; `LegFailure.stale` reports this, and the caller decides whether to send another request.

    Args:
        origin: the worker.
        path: on the worker.
        body: JSON of a POST request; None makes it a GET request.
        on_result: called once: with the whole response, with a stream up to the end of its first event at least, or
            with the failure. Not called after `close`.
        streams: a response of status 200 is a stream; `read` returns what follows its first event.
        fresh: open a new connection instead of using an idle one.
        max_bytes: bound of a response that is not streamed; a larger one is broken off and fails.

    Attributes:
        over: nothing more will arrive.
        arrived: clock time at which the last piece of the body arrived; minus infinity before.
    """

    __slots__ = (
        "_body",
        "_connecting",
        "_connection",
        "_error",
        "_kept",
        "_loop",
        "_max_bytes",
        "_on_over",
        "_on_result",
        "_origin",
        "_path",
        "_paused",
        "_pieces",
        "_reader",
        "_size",
        "_status",
        "_streams",
        "_tail",
        "_watcher",
        "arrived",
        "over",
    )

    def __init__(
        self,
        origin: Origin,
        path: str,
        body: bytes | None,
        on_result: Callable[[LegResult], None],
        *,
        streams: bool = False,
        fresh: bool = False,
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.over = False
        self._max_bytes = max_bytes
        self.arrived = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._origin = origin
        self._path = path
        # released once it was sent: it may have megabytes, and a stream may last for minutes
        self._body: bytes | None = None
        # released once it was called: it references an object that references this exchange
        self._on_result: Callable[[LegResult], None] | None = on_result
        self._streams = streams
        self._paused = False
        self._status = 0
        self._pieces: list[bytes] = []
        # memory of the pieces, in bytes
        self._size = 0
        # the last bytes of a stream whose first event is not complete
        self._tail = b""
        self._error: LegError | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._watcher: asyncio.Future[None] | None = None
        self._on_over: Callable[[LegError | None], None] | None = None
        self._connection: Connection | None = None if fresh else origin.acquire()
        self._kept = self._connection is not None
        if self._connection is None:
            self._body = body
            self._connecting = self._loop.create_task(self._connect())
        else:
            self._connection.send(path, body, self)

    async def read(self) -> bytes:
        """Return the next piece of a stream; empty at its end.

        Raises:
            LegError: the connection broke, or the exchange was closed.
        """
        if not self._pieces and not self.over:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._pieces:
            return self._take_pieces()
        if self._error is not None:
            raise self._error
        return b""

    async def finished(self) -> None:
        """Wait until the response is over; discard what arrives until then.

        Raises:
            LegError: the connection broke, or the exchange was closed.
        """
        if not self.over:
            self._watcher = self._loop.create_future()
            await self._watcher
        if self._error is not None:
            raise self._error

    def when_over(self, callback: Callable[[LegError | None], None]) -> None:
        """Call back with the error, if any, once nothing more will arrive; at once if the response is over.

        Pieces may still be unread.
        """
        if self.over:
            callback(self._error)
        else:
            self._on_over = callback

    def close(self) -> None:
        """Break off a response that is not over; `read` then raises an error."""
        if self.over:
            return
        self._on_result = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._end(BrokenError("the connection was closed"))

    # --- called by the connection -------------------------------------------------------------------------------------

    def response_started(self, status: int) -> None:
        """Keep the status; see `Receiver`."""
        self._status = status

    def response_data(self, data: bytes) -> None:
        """Keep a piece of the body, or report it; see `Receiver`."""
        self.arrived = self._origin.clock.now()
        if self._on_result is None and self._watcher is not None:
            return
        self._pieces.append(data)
        self._size += len(data) + _PIECE_BYTES
        if self._on_result is not None:
            if self._streams and self._status == 200:
                self._begin_stream(data)
            elif self._size > self._max_bytes:
                self._refuse()
        elif self._reader is not None:
            _wake(self._reader)
        elif not self._paused and self._size > _BACKLOG and self._connection is not None:
            self._paused = True
            self._connection.pause()

    def response_completed(self) -> None:
        """Report the whole response; see `Receiver`."""
        self._end(None)
        if self._on_result is None:
            return
        if self._streams and self._status == 200:
            self._report(LegFailure("the stream ended before its first token"))
        else:
            self._report(LegResponse(self._status, self._take_pieces()))

    def response_failed(self, error: LegError) -> None:
        """Report the failure; see `Receiver`."""
        self._connection = None
        stale = self._kept and self._status == 0 and isinstance(error, BrokenError)
        self._end(error)
        self._report(LegFailure(str(error), stale=stale))

    # ------------------------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        try:
            self._connection = await self._origin.connect()
        except NotConnectedError as e:
            self._end(e)
            self._report(LegFailure(str(e), refused=True, ours=isinstance(e, ExhaustedError)))
        else:
            body, self._body = self._body, None
            self._connection.send(self._path, body, self)
        finally:
            self._connecting = None

    def _begin_stream(self, data: bytes) -> None:
        """Report a stream once its first event is complete. The reader refuses an event that is too long."""
        near = self._tail + data
        self._tail = near[-3:]
        if sse.contains_event_end(near) or self._size > sse.MAX_EVENT_BYTES:
            self._report(LegResponse(200, self._take_pieces(), streamed=True))

    def _refuse(self) -> None:
        """Break off a response that is too large."""
        on_result, why = self._on_result, f"its answer is over {self._max_bytes / (1 << 20):g} MiB"
        self._pieces.clear()
        self.close()
        if on_result is not None:
            on_result(LegFailure(why, oversized=True))

    def _take_pieces(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        self._resume()
        return data

    def _resume(self) -> None:
        if self._paused and self._connection is not None:
            self._paused = False
            self._connection.resume()

    def _report(self, result: LegResult) -> None:
        on_result, self._on_result = self._on_result, None
        if on_result is not None:
            on_result(result)

    def _end(self, error: LegError | None) -> None:
        self.over = True
        self._error = error
        # the next exchange on this connection reads from it
        self._resume()
        self._connection = None
        _wake(self._reader)
        _wake(self._watcher)
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over(error)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
