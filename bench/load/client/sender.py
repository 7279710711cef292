"""Send a request, read its stream, and fill in its record."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from typing import Any, TypeGuard

import aiohttp
import orjson

from sun_sglang.bench.load.client.clock import Clock
from sun_sglang.bench.load.client.endpoint import Endpoint, Prepared
from sun_sglang.bench.load.client.event_reader import EventReader, error_text, shortened
from sun_sglang.bench.load.client.record import Failure, RequestRecord
from sun_sglang.bench.load.workload.planned import PlannedRequest

_MOST_ERROR_BYTES = 1 << 16
# the router's name of a conversation (docs/topology.md); other servers ignore it
_SESSION_HEADER = "X-Sun-Session"


class Sender:
    """Sends the requests of one run and keeps a record of each. A request of a session names it.

    Args:
        session: the session of all requests.
        endpoint_of: returns where the requests of a task go.
        clock: the clock of the run.

    Attributes:
        records: a record of each request, in the order of sending.
    """

    def __init__(self, session: aiohttp.ClientSession, endpoint_of: Callable[[str], Endpoint], clock: Clock) -> None:
        self.records: list[RequestRecord] = []
        self._session = session
        self._endpoint_of = endpoint_of
        self._clock = clock
        # a router remembers the sessions of earlier runs
        self._run = secrets.token_hex(8)

    async def send(self, prepared: Prepared) -> RequestRecord:
        """Send a request and return its record when its answer has ended. A failure is in the record, not raised."""
        request = prepared.request
        record = RequestRecord(
            request.index,
            request.task,
            request.output_tokens,
            request.due,
            sent=self._clock.now(),
            session=request.session,
        )
        self.records.append(record)
        try:
            record.failure = await self._exchange(prepared, record)
        except TimeoutError:
            record.failure = Failure("timeout", f"no end after {self._session.timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as e:
            record.failure = _connection_failure(e)
        record.ended = self._clock.now()
        return record

    async def _exchange(self, prepared: Prepared, record: RequestRecord) -> Failure | None:
        endpoint = self._endpoint_of(prepared.request.task)
        async with self._session.post(
            endpoint.url + prepared.path,
            data=prepared.body,
            headers={**endpoint.headers, **self._session_header(prepared.request)},
            ssl=endpoint.ssl,
            allow_redirects=False,
        ) as reply:
            if reply.status != 200:
                return await _refusal(reply)
            return await self._read(reply, record)

    def _session_header(self, request: PlannedRequest) -> dict[str, str]:
        return {} if request.session is None else {_SESSION_HEADER: f"bench-{self._run}-{request.session}"}

    async def _read(self, reply: aiohttp.ClientResponse, record: RequestRecord) -> Failure | None:
        reader, now = EventReader(keeps_ids=record.session is not None), self._clock.now
        async for data in reply.content.iter_any():
            if new := reader.feed(data):
                at = now()
                if record.first is None:
                    record.first = at
                record.last = at
                record.arrivals.append(at)
                record.arrived.append(new)
                record.output_tokens = reader.tokens
            if reader.failure is not None:
                return reader.failure
        _count(reader, record)
        record.answer = reader.ids or None
        return reader.end(record.wanted_tokens)


def _count(reader: EventReader, record: RequestRecord) -> None:
    """Fill in the server's counts; a value that is no count, and more hits than tokens, count as absent."""
    usage = reader.usage() or {}
    details = usage.get("prompt_tokens_details")
    prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    record.prompt_tokens = prompt if _is_count(prompt) else 0
    record.cached_tokens = cached if _is_count(cached) and cached <= record.prompt_tokens else None
    record.output_tokens = made if _is_count(made) else record.output_tokens


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


async def _refusal(reply: aiohttp.ClientResponse) -> Failure:
    body = await reply.content.read(_MOST_ERROR_BYTES)
    try:
        text = error_text(orjson.loads(body))
    except orjson.JSONDecodeError:
        text = shortened(body.decode(errors="replace"))
    return Failure(f"http_{reply.status}", text or reply.reason or "no reason given")


def _connection_failure(error: Exception) -> Failure:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Failure("open_files", "this machine allows no more open files: send less at once (`--concurrency`)")
    return Failure("connection", shortened(str(error)) or type(error).__name__)
