"""`Expect`, headers that stand twice, and bodies that are refused by their length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.unit.router.conftest import PATIENCE_S, SMALL, SUN, Start, System

BODY = b'{"model": "math", "text": "hi"}'
SECRET = b"secret-0123456789"
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(fields: bytes, path: bytes = b"/generate", length: int = len(BODY)) -> bytes:
    start = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % path
    return start + b"Content-Length: %d\r\n" % length + fields + b"\r\n"


@pytest.fixture
async def small(start: Start) -> System:
    system: System = await start(SUN, SMALL, router={"max_body_mb": 1})
    return system


@pytest.fixture
async def peer(small: System) -> AsyncIterator[Peer]:
    host, port = small.router.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    yield reader, writer
    writer.close()


async def reply(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the header and the body of the next response that is not `100 Continue`."""
    async with asyncio.timeout(PATIENCE_S):
        found = await reader.readuntil(b"\r\n\r\n")
        length = int(found.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return found, await reader.readexactly(length)


async def test_body_that_the_client_holds_back_is_announced_and_served(peer: Peer) -> None:
    reader, writer = peer
    for _ in range(2):
        writer.write(head(b"Expect: 100-Continue\r\n"))
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reply(reader))[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("fields", "length", "status"),
    [
        (b"", 2 << 20, 413),
        (b"Content-Encoding: br\r\n", len(BODY), 415),
        (b"Host: evil.com\r\n", len(BODY), 403),
    ],
)
async def test_body_that_is_refused_is_not_announced(peer: Peer, fields: bytes, length: int, status: int) -> None:
    reader, writer = peer
    sent = head(b"Expect: 100-continue\r\n" + fields, length=length)
    writer.write(sent.replace(b"Host: x\r\n", b"") if b"Host" in fields else sent)
    assert (await reply(reader))[0].startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("path", [b"/generate", b"/nowhere", b"/livez"])
@pytest.mark.parametrize("value", [SECRET, b"\xff\xfe", b""])
async def test_other_expectation_gets_json_that_does_not_repeat_it(
    small: System, peer: Peer, path: bytes, value: bytes
) -> None:
    reader, writer = peer
    writer.write(head(b"Expect: " + value + b"\r\n", path) + BODY)
    found, body = await reply(reader)
    assert found.startswith(b"HTTP/1.1 417 ")
    assert orjson.loads(body)["error"]["code"] == "expectation_failed"
    assert SECRET not in body
    assert not [e for e in small.events if e["event"] in ("defect", "library")]


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "Origin", "X-Sun-Task", "X-Sun-Session"])
async def test_header_that_stands_twice_is_refused(small: System, peer: Peer, name: str) -> None:
    reader, writer = peer
    writer.write(head(b"".join(b"%s: %s\r\n" % (name.encode(), value) for value in (b"math", b"tool"))) + BODY)
    assert (await reply(reader))[0].startswith(b"HTTP/1.1 400 ")
    assert not small["math-0"].requests


async def test_method_that_a_path_lacks_gets_the_methods_that_it_has(small: System) -> None:
    async with small.client.request("PATCH", "/generate") as r:
        assert (r.status, r.headers["Allow"]) == (405, "POST, PUT")
