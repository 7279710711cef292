"""The size and validity of request headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import PATIENCE_S, SMALL, SUN, Start, System
from tests.unit.router.fake_worker import Fault

BODY = b'{"model": "math", "text": "hi"}'
SECRET = b"secret-0123456789"


def post(fields: bytes, body: bytes = BODY) -> bytes:
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return head + fields + b"\r\n" + body


@pytest.fixture
async def peer(small: System) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = small.router.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    yield reader, writer
    writer.close()


async def reply(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Return status, header and body of the next response."""
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head.split()[1]), head, await reader.readexactly(length)


@pytest.mark.parametrize("fields", [1, 4])
async def test_header_of_64_kib_is_accepted(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter], fields: int
) -> None:
    reader, writer = peer
    value = b"s" * ((64 << 10) // fields)
    for _ in range(2):
        writer.write(post(b"".join(b"X-Sso-%d: %s\r\n" % (i, value) for i in range(fields))))
        assert (await reply(reader))[0] == 200
    assert not any(b"s" * 100 in orjson.dumps(body) for _, body in small["math-0"].requests)


async def test_body_after_a_header_is_no_header(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    reader, writer = peer
    body = orjson.dumps({"model": "math", "text": "hi", "user": "x" * (1 << 20)})
    for _ in range(2):
        writer.write(post(b"X: y\r\n", body))
        assert (await reply(reader))[0] == 200


async def test_rest_of_a_body_that_was_answered_early_is_no_header(
    peer: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = peer
    body = b"x" * (200 << 10)
    begin = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(begin + body[:10])
    assert (await reply(reader))[0] == 404
    writer.write(body[10:])
    await writer.drain()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reply(reader))[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        post(b"X-Sso: " + SECRET + b"s" * (100 << 10) + b"\r\n"),
        post(b"".join(b"X-%d: %s%s\r\n" % (i, SECRET, b"s" * 2000) for i in range(50))),
        b"\r\n\r\n" + post(b"X-Sso: " + SECRET + b"s" * (100 << 10) + b"\r\n"),
        b"GET /" + SECRET + b"s" * (100 << 10) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["one field", "many fields", "after empty lines", "the path"],
)
async def test_header_that_is_too_large_gets_json_that_repeats_none_of_it(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter], sent: bytes
) -> None:
    reader, writer = peer
    writer.write(sent)
    status, head, body = await reply(reader)
    assert (status, orjson.loads(body)["error"]["code"]) == (431, "header_too_large")
    assert b"application/json" in head
    assert b"X-Request-Id: " in head
    assert SECRET not in body
    small.router.clients._sweep()
    assert {"header_size": 1}.items() <= next(e for e in small.events if e["event"] == "connections_ended").items()
    assert SECRET.decode() not in small.log.getvalue()
    assert small.metric("sun_connections_ended_total", why="header_size") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01" + SECRET + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA" + SECRET + b" : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00" + SECRET + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + SECRET + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + SECRET + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + SECRET + b"\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
    ids=["TLS", "a space in a name", "a null", "a length that is no number", "no host", "200 fields"],
)
async def test_request_that_is_no_http_gets_json_that_repeats_none_of_it(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter], sent: bytes
) -> None:
    reader, writer = peer
    writer.write(sent)
    status, head, body = await reply(reader)
    assert (status, orjson.loads(body)["error"]["code"]) == (400, "invalid_http")
    assert b"X-Request-Id: " in head
    assert SECRET not in body
    small.router.clients._sweep()
    assert {"no_http": 1}.items() <= next(e for e in small.events if e["event"] == "connections_ended").items()
    assert SECRET.decode() not in small.log.getvalue()
    assert "defect" not in small.log.getvalue()


async def test_requests_sent_far_ahead_are_dropped_and_their_connection_ends_with_the_answer(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    reader, writer = peer
    small["base-0"].fault = Fault(hang_after=2, times=1)
    writer.write(post(b"", b'{"model": "math", "text": "hi", "rid": "a"}'))
    await wait_until(lambda: small["base-0"].running)
    (connection,) = [c for c in small.router.clients._open.values() if c.request is not None]
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 20))
    await wait_until(lambda: connection.is_cut)
    assert (await small.post("/abort_request", {"rid": "a"}))[0] == 200
    assert (await reply(reader))[0] == 200
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):
            assert await reader.read() == b""


async def hung(system: System, writer: asyncio.StreamWriter) -> None:
    """Send a request that is answered once it is aborted."""
    system["base-0"].fault = Fault(hang_after=2, times=1)
    writer.write(post(b"", b'{"model": "math", "text": "hi", "rid": "a"}'))
    await wait_until(lambda: system["base-0"].running)


async def sent_ahead(system: System, writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send bytes while the first request is answered, and wait until the router has received them."""
    (connection,) = [c for c in system.router.clients._open.values() if c.request is not None]
    before = connection._received
    writer.write(data)
    await wait_until(lambda: connection.is_cut or connection._received == before + len(data))


FIELDS = b"".join(b"X-%d: %s\r\n" % (i, b"s" * 2000) for i in range(50))


@pytest.mark.parametrize("early", [b"G", b"\r\n", b"GET / HTTP/1.1\r\nHo", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nG"])
async def test_header_that_began_early_and_is_too_large_gets_431(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter], early: bytes
) -> None:
    reader, writer = peer
    await hung(small, writer)
    await sent_ahead(small, writer, early)
    assert (await small.post("/abort_request", {"rid": "a"}))[0] == 200
    assert (await reply(reader))[0] == 200
    if b"livez" in early:
        assert (await reply(reader))[0] == 200
    await wait_until(lambda: not small.router.in_flight.tickets)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELDS
    writer.write(whole[1:] if early.endswith(b"G") else whole[len(early.strip()) :])
    assert (await reply(reader))[0] == 431


async def test_large_header_sent_ahead_ends_the_connection_with_the_answer_before_it(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    reader, writer = peer
    await hung(small, writer)
    await sent_ahead(small, writer, b"GET / HTTP/1.1\r\nHost: x\r\n" + FIELDS)
    assert (await small.post("/abort_request", {"rid": "a"}))[0] == 200
    assert (await reply(reader))[0] == 200
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    assert small.metric("sun_connections_ended_total", why="header_size") == 1


async def test_large_header_in_one_piece_with_a_request_leaves_that_request_its_answer(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    reader, writer = peer
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n" + FIELDS)
    assert (await reply(reader))[0] == 200
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):
            assert await reader.read() == b""


async def test_requests_sent_ahead_are_answered_in_order_whatever_their_bodies(
    peer: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    reader, writer = peer
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (BODY[:3], BODY[3:4], BODY[4:]))
    chunked = post(b"").split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    ends = (b"0\r\n\r\n", b"0\r\nX-Trailer: y\r\n\r\n")
    live = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(b"".join((post(b""), live, b"\r\n", chunked, ends[0], live, chunked, ends[1], post(b""), live)))
    assert [(await reply(reader))[0] for _ in range(7)] == [200] * 7


@pytest.mark.parametrize("line", [b"5;x=" + SECRET, b"5\r\nhello\r\n0\r\nX: " + SECRET], ids=["chunk size", "trailer"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_line_of_a_chunked_body_that_is_too_large_gets_431_at_once(
    small: System, peer: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes, at_once: bool
) -> None:
    reader, writer = peer
    begin = post(b"", b"").split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    writer.write(begin)
    if not at_once:
        await wait_until(lambda: any(c.request is not None for c in small.router.clients._open.values()))
    writer.write(line + b"y" * (100 << 10))
    status, _, body = await reply(reader)
    assert (status, orjson.loads(body)["error"]["code"]) == (431, "header_too_large")
    assert SECRET not in body
    assert not small["math-0"].requests


@pytest.mark.parametrize(
    ("cors", "origin", "allowed"),
    [
        (["https://app.example"], b"https://app.example", b"https://app.example"),
        (["https://app.example"], b"https://evil.example", None),
        (["*"], b"https://evil.example", b"*"),
        ([], b"https://app.example", None),
    ],
)
async def test_header_that_is_too_large_is_an_error_that_a_listed_page_reads(
    start: Start, cors: list[str], origin: bytes, allowed: bytes | None
) -> None:
    system: System = await start(SUN, SMALL, router={"cors": cors})
    host, port = system.router.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(post(b"ORIGIN: " + origin + b"\r\nCookie: " + b"s" * (100 << 10) + b"\r\n"))
    status, head, _ = await reply(reader)
    writer.close()
    assert status == 431
    line = b"Access-Control-Allow-Origin: "
    assert (line + allowed + b"\r\n" in head) if allowed else (line not in head)
