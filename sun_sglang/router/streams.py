"""Several answers' streams as one: events interleave as they come, each with the index of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from sun_sglang.router.answer import Answer, StreamBroken
from sun_sglang.router.attempt import Ticket
from sun_sglang.router.fanout import merge_usage, reindex
from sun_sglang.router.problem import Problem
from sun_sglang.router.replies import Tokens, tokens
from sun_sglang.router.request import Endpoint, Request
from sun_sglang.router.sse import DONE, Framer, Watch, event, event_data

# Events that may wait for a slow client; then the answers' own connections hold the workers back.
_BACKLOG = 256


class MergedStream:
    """The client's side of a streamed request for several answers.

    Attributes:
        failed: it ended with an error event.
    """

    def __init__(self, request: Request, indices: Sequence[int]) -> None:
        self.failed = False
        self._request = request
        self._queue: asyncio.Queue[bytes | Problem] = asyncio.Queue(_BACKLOG)
        self._usages: dict[int, dict[str, Any] | None] = dict.fromkeys(indices)
        self._last: dict[int, dict[str, Any]] = {}
        self._open = len(indices)
        self._ended = False
        self._id: str | None = request.rid if isinstance(request.rid, str) else None

    @asynccontextmanager
    async def running(self, takers: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Run the takers, one an answer, while the block reads; whatever ends the block ends them."""
        tasks = [asyncio.create_task(self._guard(taker)) for taker in takers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def take(self, index: int, answer: Answer, ticket: Ticket, show: Callable[[bytes], bytes]) -> bool:
        """Pass one answer's stream on. Returns whether it came to its end.

        Raises:
            Problem: it broke.
        """
        watch, framer = Watch(strip_usage=True), Framer()
        chunk = answer.head
        while True:
            for whole in framer.feed(watch.feed(chunk)):
                if whole != DONE:
                    await self._put(index, orjson.loads(event_data(show(whole))))
            if watch.ended:
                break
            try:
                chunk = await answer.read()
                if not chunk:
                    raise StreamBroken("it ended without [DONE]")
            except StreamBroken as broken:
                answer.lost(str(broken))
                raise Problem(502, f"answer {index} broke off: {broken}", code="stream_broken") from broken
        self._usages[index] = watch.usage
        if watch.aborted is not None and ticket.abort_asked:
            await self._put(index, orjson.loads(show(watch.aborted)))
        elif not watch.done:
            why = watch.error if watch.error is not None else b'{"error":{"message":"the worker aborted the request"}}'
            raise Problem(502, f"answer {index} failed", code="stream_broken", body=why)
        return True

    async def first(self) -> bytes:
        """The first event.

        Raises:
            Problem: an answer failed before any had begun; nothing was sent yet.
        """
        item = await self._queue.get()
        if isinstance(item, Problem):
            raise item
        return item

    async def next(self) -> bytes:
        """The next piece of the stream; empty after its end."""
        if self._ended:
            return b""
        item = await self._queue.get()
        if isinstance(item, Problem):
            self.failed = self._ended = True
            return b"data: " + item.body + b"\n\n" if item.body is not None else item.as_event()
        self._ended = item == DONE
        return (self._usage_event() + DONE) if self._ended else item

    def tokens(self) -> Tokens:
        """Token counts of all answers."""
        if self._request.endpoint is Endpoint.GENERATE:
            return tokens(list(self._last.values()))
        return tokens(self._merged_usage())

    async def _guard(self, taker: Coroutine[Any, Any, None]) -> None:
        try:
            await taker
        except Problem as problem:
            await self._queue.put(problem)
            return
        self._open -= 1
        if self._open == 0:
            await self._queue.put(DONE)

    async def _put(self, index: int, chunk: dict[str, Any]) -> None:
        shown = reindex(self._request.endpoint, chunk, index)
        if self._request.endpoint is not Endpoint.GENERATE:
            self._id = self._id or shown.get("id")
            shown["id"] = self._id
        self._last[index] = shown
        await self._queue.put(event(shown))

    def _merged_usage(self) -> dict[str, Any] | None:
        return merge_usage([self._usages[i] for i in sorted(self._usages)], self._request.n)

    def _usage_event(self) -> bytes:
        usage = self._merged_usage()
        if not self._request.wants_usage or usage is None or not self._last:
            return b""
        last = self._last[max(self._last)]
        named: dict[str, Any] = {k: last[k] for k in ("id", "object", "created", "model") if k in last}
        return event({**named, "choices": [], "usage": usage})
