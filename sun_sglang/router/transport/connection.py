"""One kept-alive HTTP/1.1 connection to a worker, for one leg at a time.

A request is one write of a prepared header and its body. httptools' parser (llhttp) reads the response and calls the
receiver as bytes arrive: no task, queue or header map is between a worker and its leg. The other services of a
general HTTP client (URLs, cookies, redirects) would be most of the cost of a leg.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from sun_sglang.contracts.worker_key import bearer
from sun_sglang.router.transport.errors import BrokenError, LegError, NotHttpError

# A header of uvicorn's has some hundred bytes.
MAX_HEAD_BYTES = 1 << 16


class Receiver(Protocol):
    """Receives one response: `response_started` once, `response_data` for each part, then one of the other two."""

    def response_started(self, status: int) -> None:
        """Accept the status; the header is complete."""

    def response_data(self, data: bytes) -> None:
        """Accept a part of the body."""

    def response_completed(self) -> None:
        """Accept the end of the body."""

    def response_failed(self, error: LegError) -> None:
        """Accept that no more will arrive."""


class RequestHeads:
    """Prepared headers of the requests to one worker.

    Args:
        host: value of the header `Host`.
        key: the worker's key; None where it has none.
    """

    def __init__(self, host: str, key: str | None) -> None:
        self._common = [f"Host: {host}", *(f"{name}: {value}" for name, value in bearer(key).items())]
        self._posts: dict[str, bytes] = {}

    def post(self, path: str) -> bytes:
        """Return the header of a POST request up to the length of its body."""
        head = self._posts.get(path)
        if head is None:
            lines = (f"POST {path} HTTP/1.1", *self._common, "Content-Type: application/json")
            head = self._posts[path] = "\r\n".join((*lines, "Content-Length: ")).encode()
        return head

    def get(self, path: str) -> bytes:
        """Return the whole header of a GET request."""
        return "\r\n".join((f"GET {path} HTTP/1.1", *self._common, "", "")).encode()


class Connection(asyncio.Protocol):
    """One connection to a worker; one request at a time.

    Args:
        heads: headers of its requests.
        on_idle: called with the connection once a response ended and another request may be written to it.
    """

    def __init__(self, heads: RequestHeads, on_idle: Callable[[Connection], None]) -> None:
        self._heads = heads
        self._on_idle = on_idle
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._started = False
        self._head_size = 0
        self._readable = select.poll()
        self._transport: asyncio.Transport

    @property
    def is_open(self) -> bool:
        """Whether a request may be written, by the kernel's state of the socket.

        The event loop may not have processed yet that the worker closed the connection.
        """
        return not (self._transport.is_closing() or self._readable.poll(0))

    def send(self, path: str, body: bytes | None, receiver: Receiver) -> None:
        """Send a request.

        Args:
            path: on the worker.
            body: JSON of a POST request; None makes it a GET request.
            receiver: of the response.
        """
        assert self._receiver is None, "a connection has one request at a time"
        self._receiver, self._started, self._head_size = receiver, False, 0
        if body is None:
            self._transport.write(self._heads.get(path))
        else:
            self._transport.write(b"%b%d\r\n\r\n%b" % (self._heads.post(path), len(body), body))

    def close(self) -> None:
        """Close the connection. The receiver is not called again."""
        self._receiver = None
        self._transport.close()

    def pause(self) -> None:
        """Stop reading from the worker, which fills its own buffers and then waits."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read from the worker again."""
        self._transport.resume_reading()

    # --- called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        # an idle connection becomes readable only when it ends
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; the parser calls the methods below."""
        if self._receiver is None:
            # the next request on this connection would receive these bytes as its response
            self._transport.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._fail(NotHttpError("the answer could not be processed"))
            raise
        except httptools.HttpParserError as e:
            self._fail(NotHttpError(f"the answer is not HTTP: {e}"))
        if not self._started:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._fail(NotHttpError(f"the answer's header is over {MAX_HEAD_BYTES} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end to the receiver, if there is one."""
        where = "in the middle of an answer" if self._started else "without an answer"
        self._fail(BrokenError(f"it closed the connection {where}"))

    # --- called by the parser -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Close the connection if a second response follows the first one in the same packet."""
        if self._receiver is None:
            self._transport.close()

    def on_headers_complete(self) -> None:
        """Report the status."""
        if self._is_interim:
            return
        self._started = True
        if self._receiver is not None:
            self._receiver.response_started(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        """Pass on a part of the body; of a chunked one, a chunk or a part of a chunk."""
        if self._receiver is not None:
            self._receiver.response_data(data)

    def on_message_complete(self) -> None:
        """Free the connection, and then report the end of the response."""
        if self._is_interim:
            return
        receiver, self._receiver = self._receiver, None
        # uvicorn closes the connection after an unhandled exception and does not announce it
        failed = self._parser.get_status_code() >= 500
        if receiver is None or failed or not self._parser.should_keep_alive():
            self._transport.close()
        else:
            self._on_idle(self)
        if receiver is not None:
            receiver.response_completed()

    @property
    def _is_interim(self) -> bool:
        """Whether the message only announces the response: proxies may send some of status 1xx (RFC 9110, 15.2)."""
        return self._parser.get_status_code() < 200

    def _fail(self, error: LegError) -> None:
        receiver, self._receiver = self._receiver, None
        self._transport.close()
        if receiver is not None:
            receiver.response_failed(error)
