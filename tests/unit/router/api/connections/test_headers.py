"""The size and validity of request headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.api.connections.header_meter import MAX_HEADER_BYTES, HeaderMeter
from tests.unit.router.conftest import PATIENCE_S, System
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
    status, _, body = await reply(reader)
    assert (status, orjson.loads(body)["error"]["code"]) == (400, "invalid_http")
    assert SECRET not in body
    small.router.clients._sweep()
    assert {"no_http": 1}.items() <= next(e for e in small.events if e["event"] == "connections_ended").items()
    assert SECRET.decode() not in small.log.getvalue()
    assert "defect" not in small.log.getvalue()


@given(st.integers(0, 2 * MAX_HEADER_BYTES), st.lists(st.integers(1, 100_000), max_size=5), st.binary(max_size=9))
def test_meter_counts_the_header_and_nothing_after_it(size: int, cuts: list[int], after: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nX: " + b"y" * size + b"\r\n\r\n"
    header, data = len(data), data + after + b"z" * 200_000
    meter, over = HeaderMeter(), False
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        over = over or meter.exceeds(piece)
    assert over == (header > MAX_HEADER_BYTES)


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
