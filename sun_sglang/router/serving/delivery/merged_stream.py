"""Merge the streams of several answers: events interleave as they arrive, each with the index of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.outcome.worker_refusal import event_error
from sun_sglang.router.dispatch.pair_response import Answer, StreamBrokenError
from sun_sglang.router.errors import ApiError, internal_error
from sun_sglang.router.protocol.fan_out import RESULT_FIELD, merge_usage, reindex
from sun_sglang.router.protocol.request import Endpoint, Request
from sun_sglang.router.protocol.sse import DONE, DONE_DATA, EventFramer, EventKind, event, event_data, event_kind
from sun_sglang.router.protocol.worker_replies import BadReplyError, TokenCounts, parse_result, token_counts
from sun_sglang.router.serving.delivery.rewriting import Rewriter

# Bytes of events that may wait for a slow client. Beyond them nothing is read from the workers.
_BACKLOG = 1 << 18


class MergedStream:
    """The stream that a client receives for a request for several answers.

    Args:
        request: the client's request.
        indices: of its answers.
        on_defect: called with an exception that should not occur and ended the stream.

    Attributes:
        failed: the stream ended with an error event.
    """

    def __init__(self, request: Request, indices: Sequence[int], on_defect: Callable[[Exception], None]) -> None:
        self.failed = False
        self._request = request
        self._on_defect = on_defect
        self._queue: asyncio.Queue[bytes | ApiError] = asyncio.Queue()
        self._backlog = 0
        self._drained = asyncio.Event()
        self._usages: dict[int, dict[str, Any] | None] = dict.fromkeys(indices)
        self._counts: dict[int, TokenCounts] = {}
        self._names: dict[str, Any] = {}
        self._open = len(indices)
        self._ended = False
        self._id: str | None = request.rid if isinstance(request.rid, str) else None

    @asynccontextmanager
    async def running(self, forwarders: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Run one forwarder for each answer while the block reads; cancel them when the block ends."""
        tasks = [asyncio.create_task(self._guard(forwarder)) for forwarder in forwarders]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def forward(self, index: int, response: Answer, ticket: Ticket, rewriter: Rewriter) -> None:
        """Forward one answer's stream to its end.

        Args:
            index: of the answer.
            response: its stream.
            ticket: its state.
            rewriter: puts its events in the client's terms.

        Raises:
            ApiError: the stream broke.
        """
        framer, chunk = EventFramer(), response.head
        try:
            while True:
                for whole in framer.feed(chunk):
                    if await self._forward_event(index, event_data(whole), ticket, rewriter):
                        return
                chunk = await response.read()
                if not chunk:
                    raise StreamBrokenError("it ended without [DONE]")
        except StreamBrokenError as broken:
            response.report_broken(str(broken))
            raise ApiError(502, f"answer {index} broke off: {broken}", code=broken.code) from broken
        except BadReplyError as bad:
            raise ApiError(502, f"answer {index} broke off: {bad}", code="stream_broken") from bad

    async def first(self) -> bytes:
        """Return the first event.

        Raises:
            ApiError: an answer failed before any had begun. No byte has gone to the client.
        """
        item = await self._next_item()
        if isinstance(item, ApiError):
            raise item
        return self._client_bytes(item)

    async def next(self) -> bytes:
        """Return the next piece of the stream; empty after its end."""
        return b"" if self._ended else self._client_bytes(await self._next_item())

    def tokens(self) -> TokenCounts:
        """Return the token counts of all answers together."""
        if self._request.endpoint is Endpoint.GENERATE:
            return (
                TokenCounts(*map(sum, zip(*self._counts.values(), strict=True)))
                if self._counts
                else TokenCounts(0, 0, 0)
            )
        return token_counts(self._merged_usage())

    async def _guard(self, forwarder: Coroutine[Any, Any, None]) -> None:
        """Run a forwarder, and put the way it ended into the queue."""
        end: bytes | ApiError | None = internal_error()
        try:
            await forwarder
            self._open -= 1
            end = DONE if self._open == 0 else None
        except ApiError as error:
            end = error
        except Exception as e:
            self._on_defect(e)
        finally:
            # the queue has no bound of its own, so this never waits
            if end is not None:
                self._queue.put_nowait(end)

    async def _forward_event(self, index: int, data: bytes, ticket: Ticket, rewriter: Rewriter) -> bool:
        """Forward one event. Return whether it was the answer's last."""
        if data == DONE_DATA:
            return True
        if not data:
            return False
        result = parse_result(rewriter.rename(data))
        match event_kind(result):
            case EventKind.USAGE:
                self._usages[index] = result["usage"]
                return False
            case EventKind.ERROR:
                raise event_error(rewriter.rename(data))
            case EventKind.ABORT if not ticket.abort_asked:
                raise ApiError(502, f"answer {index} broke off: the worker aborted the request", code="stream_broken")
            case kind:
                if result.get(name := RESULT_FIELD[self._request.endpoint]) is None:
                    raise BadReplyError(f"the decode worker sent an event without `{name}`")
                await self._put(index, rewriter.chunk(result))
                return kind is EventKind.ABORT

    async def _put(self, index: int, chunk: dict[str, Any]) -> None:
        shown = reindex(self._request.endpoint, chunk, index)
        if self._request.endpoint is Endpoint.GENERATE:
            self._counts[index] = token_counts(shown)
        else:
            self._id = self._id or shown.get("id")
            shown["id"] = self._id
            self._names = {name: shown[name] for name in ("id", "object", "created", "model") if name in shown}
        data = event(shown)
        while self._backlog > _BACKLOG:
            self._drained.clear()
            await self._drained.wait()
        self._backlog += len(data)
        self._queue.put_nowait(data)

    async def _next_item(self) -> bytes | ApiError:
        item = await self._queue.get()
        if isinstance(item, bytes) and item != DONE:
            self._backlog -= len(item)
            self._drained.set()
        return item

    def _client_bytes(self, item: bytes | ApiError) -> bytes:
        if isinstance(item, ApiError):
            self.failed = self._ended = True
            return item.as_event()
        self._ended = item == DONE
        return (self._usage_event() + DONE) if self._ended else item

    def _merged_usage(self) -> dict[str, Any] | None:
        return merge_usage([self._usages[i] for i in sorted(self._usages)], self._request.n)

    def _usage_event(self) -> bytes:
        usage = self._merged_usage()
        if not self._request.include_usage or usage is None or not self._names:
            return b""
        return event({**self._names, "choices": [], "usage": usage})
