from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from aiohttp import ClientOSError, web

from sun_sglang.bench.load.client.endpoint import Endpoint, client_session, prepare
from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.client.sender import Sender
from sun_sglang.bench.load.workload.planned import Chat, PlannedRequest
from sun_sglang.bench.polling import wait_until
from tests.support.manual_clock import ManualClock
from tests.support.ports import PORTS
from tests.support.scripted_server import (
    DONE,
    Handler,
    Pieces,
    answer_at_once,
    scripted_server,
    stream_with_ids,
    token_event,
    usage_event,
    whole_stream,
)

REQUEST = PlannedRequest(7, "math", 0.25, (5, 6, 7, 8), 3)


async def send(url: str, request: PlannedRequest = REQUEST, *, timeout: float = 60.0) -> RequestRecord:
    endpoint = Endpoint(url)
    async with client_session(timeout=timeout) as session:
        return await Sender(session, lambda _: endpoint, ManualClock()).send(prepare(request))


async def failure_of(handler: Handler, *, timeout: float = 60.0) -> tuple[str, str]:
    async with scripted_server(handler) as server:
        record = await send(server.url, timeout=timeout)
    assert record.failure is not None
    assert record.ended is not None
    assert not record.succeeded
    return record.failure


async def test_sender_times_of_tokens_are_those_of_their_arrival() -> None:
    pieces, clock = Pieces(), ManualClock()
    async with scripted_server(pieces) as server:
        endpoint = Endpoint(server.url)
        async with client_session(timeout=60) as session:
            sender = Sender(session, lambda _: endpoint, clock)
            clock.time = 1.0
            sending = asyncio.create_task(sender.send(prepare(REQUEST)))
            await wait_until(lambda: server.bodies)
            (record,) = sender.records
            clock.time = 1.5
            pieces.give(token_event(1))
            await wait_until(lambda: record.output_tokens == 1)
            clock.time = 1.75
            pieces.give(token_event(2)[:30])
            pieces.give(token_event(2)[30:] + token_event(3, finish="length"))
            await wait_until(lambda: record.output_tokens == 3)
            clock.time = 2.0
            pieces.give(usage_event(3, cached=2) + DONE)
            pieces.end()
            assert await sending is record
    assert (record.index, record.task, record.due, record.wanted_tokens) == (7, "math", 0.25, 3)
    assert (record.sent, record.first, record.last, record.ended) == (1.0, 1.5, 1.75, 2.0)
    assert sum(record.arrived) == 3
    assert set(record.arrivals) == {1.5, 1.75}
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (4, 2, 3)
    assert record.succeeded


async def test_sender_request_enforces_its_length_and_asks_for_counts() -> None:
    async with scripted_server(answer_at_once) as server:
        assert (await send(server.url)).succeeded
        chat = PlannedRequest(0, "tool", None, Chat(({"role": "user", "content": "é"},)), 2)
        assert (await send(server.url, chat)).succeeded
        text = PlannedRequest(1, "tool", None, "some text", 2)
        assert (await send(server.url, text)).succeeded
    assert [r.path for r in server.requests] == ["/v1/completions", "/v1/chat/completions", "/v1/completions"]
    common = {
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    assert server.bodies == [
        {**common, "model": "math", "max_tokens": 3, "prompt": [5, 6, 7, 8]},
        {**common, "model": "tool", "max_tokens": 2, "messages": [{"role": "user", "content": "é"}]},
        {**common, "model": "tool", "max_tokens": 2, "prompt": "some text"},
    ]
    assert server.requests[0].headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, '{"error": {"message": "the queue is full"}}', "the queue is full"),
        (503, '{"object": "error", "message": "no worker"}', "no worker"),
        (502, "<html>\nbad gateway</html>", "<html> bad gateway</html>"),
        (500, "", "Internal Server Error"),
        (400, '"no object"', "no object"),
        (302, "", "Found"),
    ],
)
async def test_sender_refusal_is_counted_by_status_with_the_servers_message(
    status: int, body: str, message: str
) -> None:
    async def refuse(_: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers={"Location": "/elsewhere"})

    assert await failure_of(refuse) == (f"http_{status}", message)


async def test_sender_answer_that_is_no_stream_fails() -> None:
    async def whole(_: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{"text": "abc"}], "usage": {"completion_tokens": 3}})

    kind, _ = await failure_of(whole)
    assert kind == "stream"


async def test_sender_answer_of_another_length_fails() -> None:
    for made in (2, 4):

        async def other(_: dict[str, Any], request: web.Request, made: int = made) -> web.StreamResponse:
            return web.Response(body=whole_stream(made), content_type="text/event-stream")

        assert (await failure_of(other))[0] == "wrong_length"


@pytest.mark.parametrize(
    ("prompt", "cached", "counted"),
    [(4, 4, (4, 4)), (4, 5, (4, None)), (-4, 0, (0, 0)), (4, -1, (4, None)), (True, True, (0, None))],
)
async def test_sender_counts_that_cannot_be_are_absent(
    prompt: int, cached: int, counted: tuple[int, int | None]
) -> None:
    async def answer(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        events = [*(token_event(made, finish="length" if made == 3 else None) for made in (1, 2, 3))]
        stream = b"".join([*events, usage_event(3, prompt=prompt, cached=cached), DONE])
        return web.Response(body=stream, content_type="text/event-stream")

    async with scripted_server(answer) as server:
        record = await send(server.url)
    assert (record.prompt_tokens, record.cached_tokens) == counted


async def test_sender_connection_cut_in_the_answer_fails() -> None:
    async def cut(_: dict[str, Any], request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        await reply.write(token_event(1))
        assert request.transport is not None
        request.transport.abort()
        return reply

    assert (await failure_of(cut))[0] == "connection"


async def test_sender_nobody_listens_fails() -> None:
    record = await send(f"http://127.0.0.1:{next(PORTS)}")
    assert record.failure is not None
    assert record.failure.kind == "connection"


async def test_sender_answer_that_does_not_end_times_out() -> None:
    assert await failure_of(Pieces(), timeout=0.05) == ("timeout", "no end after 0.05 s")


async def test_sender_no_open_file_left_is_the_clients_own_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint("http://127.0.0.1:1")
    async with client_session(timeout=1) as session:

        def post(*_: object, **__: object) -> None:
            raise ClientOSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(session, "post", post)
        record = await Sender(session, lambda _: endpoint, ManualClock()).send(prepare(REQUEST))
    assert record.failure is not None
    assert record.failure.kind == "open_files"


async def test_sender_cancelled_request_keeps_what_arrived_and_has_no_end() -> None:
    pieces = Pieces()
    async with scripted_server(pieces) as server:
        endpoint = Endpoint(server.url)
        async with client_session(timeout=60) as session:
            sender = Sender(session, lambda _: endpoint, ManualClock())
            sending = asyncio.create_task(sender.send(prepare(REQUEST)))
            pieces.give(token_event(2))
            await wait_until(lambda: sender.records and sender.records[0].output_tokens == 2)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        pieces.end()
    (record,) = sender.records
    assert (record.ended, record.failure, list(record.arrived)) == (None, None, [2])


async def test_sender_call_of_a_session_keeps_its_answer() -> None:
    async def answer(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        stream = stream_with_ids(body["prompt"], [11, 12, 13], cached=2)
        return web.Response(body=stream, content_type="text/event-stream")

    call = PlannedRequest(12, "math", None, (5, 6, 7, 8), 3, session=4)
    async with scripted_server(answer) as server:
        record, alone = await send(server.url, call), await send(server.url)
    assert (record.succeeded, record.session) == (True, 4)
    assert list(record.answer or ()) == [11, 12, 13]
    assert (record.prompt_tokens, record.cached_tokens) == (4, 2)
    assert (alone.session, alone.answer) == (None, None)
    assert "X-Sun-Session" in server.requests[0].headers
    assert "X-Sun-Session" not in server.requests[1].headers


async def test_senders_of_two_runs_name_equal_sessions_differently() -> None:
    """A router remembers where a session was served, and that it was; a run flushes caches, and not routers."""

    async def answer(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return web.Response(body=stream_with_ids(body["prompt"], [11], cached=0), content_type="text/event-stream")

    calls = [
        PlannedRequest(number, "math", None, (5, 6), 1, session=session) for number, session in enumerate((4, 4, 5))
    ]
    async with scripted_server(answer) as server:
        for _ in range(2):
            async with client_session(timeout=60) as session:
                sender = Sender(session, lambda _: Endpoint(server.url), ManualClock())
                for call in calls:
                    await sender.send(prepare(call))
    names = [request.headers["X-Sun-Session"] for request in server.requests]
    assert names[0] == names[1]
    assert len({names[0], names[2], names[3], names[5]}) == 4


async def test_sender_call_of_a_session_without_ids_in_the_answer_succeeds_without_them() -> None:
    call = PlannedRequest(12, "math", None, (5, 6, 7, 8), 3, session=4)
    async with scripted_server(answer_at_once) as server:
        record = await send(server.url, call)
    assert record.succeeded
    assert record.answer is None
