"""One request to a worker and its answer, whichever connection it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sun_sglang.router.protocol import sse
from sun_sglang.router.transport.connection_pool import (
    BrokenError,
    Connection,
    ExhaustedError,
    LegError,
    NotConnectedError,
    Origin,
)
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult

# Bytes of a stream that may wait for whoever reads it; then the worker is held back.
_BACKLOG = 1 << 18
# Memory of a piece besides its bytes. A chunked answer may come in pieces of one byte.
_PIECE_BYTES = 48
# A reply that is no answer to a client: a card, or the reply to an abort.
MAX_REPLY_BYTES = 1 << 20


class LegExchange:
    """A request that is sent at once, and the receiver of its answer.

    The request is sent once. uvicorn closes an idle connection without notice, so a request on a kept connection may be
    lost; `LegFailure.stale` reports this, and the caller decides whether to send another request.

    Args:
        origin: the worker.
        path: on the worker.
        body: JSON; None makes it a GET request.
        heard: called once: with the whole answer, with a stream up to the end of its first event at least, or with why
            there is neither. Not called after `close`.
        streams: an answer of status 200 is a stream: what comes after its first event is for `read`.
        fresh: open a new connection instead of using a kept one.
        most: bytes that an answer may have that is not streamed; a larger one is broken off and lost.

    Attributes:
        over: nothing more will come.
        arrived: clock time at which the last piece of the answer's body arrived; minus infinity before.
    """

    __slots__ = (
        "_body",
        "_connecting",
        "_connection",
        "_error",
        "_heard",
        "_kept",
        "_loop",
        "_most",
        "_on_over",
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
        heard: Callable[[LegResult], None],
        *,
        streams: bool = False,
        fresh: bool = False,
        most: int = MAX_REPLY_BYTES,
    ) -> None:
        self.over = False
        self._most = most
        self.arrived = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._origin = origin
        self._path = path
        # dropped once it was sent: it may be megabytes, and a stream may last for minutes
        self._body: bytes | None = None
        # dropped once it was called: what it holds holds this exchange
        self._heard: Callable[[LegResult], None] | None = heard
        self._streams = streams
        self._paused = False
        self._status = 0
        self._pieces: list[bytes] = []
        # memory of the pieces
        self._size = 0
        # of a stream before its first event is whole: its last bytes
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
        """The next piece of a stream; empty at its end.

        Raises:
            LegError: it broke, or was closed.
        """
        if not self._pieces and not self.over:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    async def finished(self) -> None:
        """Wait until the answer is over; what comes until then is dropped.

        Raises:
            LegError: it broke, or was closed.
        """
        if not self.over:
            self._watcher = self._loop.create_future()
            await self._watcher
        if self._error is not None:
            raise self._error

    def when_over(self, callback: Callable[[LegError | None], None]) -> None:
        """Call back once nothing more will come, at once if that is so, with what broke. Pieces may still be unread."""
        if self.over:
            callback(self._error)
        else:
            self._on_over = callback

    def close(self) -> None:
        """Break off what is not over; whoever reads it gets an error."""
        if self.over:
            return
        self._heard = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._end(BrokenError("the connection was closed"))

    # --- called by the connection -------------------------------------------------------------------------------------

    def response_started(self, status: int) -> None:
        """See `Receiver`."""
        self._status = status

    def response_data(self, data: bytes) -> None:
        """See `Receiver`."""
        self.arrived = self._origin.clock.now()
        if self._heard is None and self._watcher is not None:
            return
        self._pieces.append(data)
        self._size += len(data) + _PIECE_BYTES
        if self._heard is not None:
            if self._streams and self._status == 200:
                self._begin_stream(data)
            elif self._size > self._most:
                self._refuse()
        elif self._reader is not None:
            _wake(self._reader)
        elif not self._paused and self._size > _BACKLOG and self._connection is not None:
            self._paused = True
            self._connection.pause()

    def response_completed(self) -> None:
        """See `Receiver`."""
        self._end(None)
        if self._heard is None:
            return
        if self._streams and self._status == 200:
            self._tell(LegFailure("the stream ended before its first token"))
        else:
            self._tell(LegResponse(self._status, self._take()))

    def response_failed(self, error: LegError) -> None:
        """See `Receiver`."""
        self._connection = None
        stale = self._kept and self._status == 0 and isinstance(error, BrokenError)
        self._end(error)
        self._tell(LegFailure(str(error), stale=stale))

    # ------------------------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        try:
            self._connection = await self._origin.connect()
        except NotConnectedError as e:
            self._end(e)
            self._tell(LegFailure(str(e), refused=True, ours=isinstance(e, ExhaustedError)))
        else:
            body, self._body = self._body, None
            self._connection.send(self._path, body, self)
        finally:
            self._connecting = None

    def _begin_stream(self, data: bytes) -> None:
        """Report a stream once its first event is whole. One that is too long goes to the reader, who refuses it."""
        near = self._tail + data
        self._tail = near[-3:]
        if sse.contains_event_end(near) or self._size > sse.MAX_EVENT_BYTES:
            self._tell(LegResponse(200, self._take(), streamed=True))

    def _refuse(self) -> None:
        """Break off an answer that is too large."""
        heard, why = self._heard, f"its answer is over {self._most / (1 << 20):g} MiB"
        self._pieces.clear()
        self.close()
        if heard is not None:
            heard(LegFailure(why, oversized=True))

    def _take(self) -> bytes:
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

    def _tell(self, said: LegResult) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            heard(said)

    def _end(self, error: LegError | None) -> None:
        self.over = True
        self._error = error
        # whoever gets the connection next wants to read
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
