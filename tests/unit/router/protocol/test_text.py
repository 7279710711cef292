"""Headers and paths that are no text: each gets an answer."""

from __future__ import annotations

import asyncio
import zlib

import pytest

from tests.unit.router.conftest import PATIENCE_S, System


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("X-Sun-Task", 404),
        ("X-Sun-Session", 200),
        ("Authorization", 200),
        ("X-API-Key", 200),
        ("X-Request-Id", 200),
        ("traceparent", 200),
        ("Content-Type", 400),
        ("Cookie", 200),
    ],
)
@pytest.mark.parametrize("value", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80"])
async def test_header_that_is_not_utf_8_gets_an_answer(small: System, header: str, status: int, value: bytes) -> None:
    body = b'{"model": "math", "input_ids": [5]}'
    lines = {"Content-Type": b"application/json", header: value}
    head = b"".join(name.encode() + b": " + text + b"\r\n" for name, text in lines.items())
    got = await raw(
        small, b"POST /generate HTTP/1.1\r\nHost: x\r\n" + head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert got.startswith(b"HTTP/1.1 %d " % status), got
    assert not [e for e in small.events if e["event"] == "defect"]


@pytest.mark.parametrize("target", [b"/nowhere/\xff", b"/v1/models/\xff", b"/model_info?model=\xff", b"/tasks?\xff=1"])
async def test_path_that_is_not_utf_8_gets_an_answer(small: System, target: bytes) -> None:
    got = await raw(small, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert int(got.split(b" ")[1]) in (200, 400, 404), got
    assert not [e for e in small.events if e["event"] == "defect"]


async def test_name_of_a_task_that_is_too_long_is_cut_in_the_answer(small: System) -> None:
    status, reply = await small.post("/generate", {"model": "x" * 1_000_000, "input_ids": [5]})
    assert (status, reply["error"]["code"]) == (404, "model_not_found")
    assert len(reply["error"]["message"]) == 4096


async def raw(system: System, sent: bytes) -> bytes:
    """Send bytes and return the first line of the reply."""
    host, port = system.router.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.readline()
    finally:
        writer.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP, identity", "x"])
async def test_compressed_body_is_refused_and_never_unpacked(small: System, encoding: str) -> None:
    bomb = zlib.compress(b" " * (1 << 20))
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    for path in ("/generate", "/abort_request", "/workers"):
        async with small.client.post(path, data=bomb, headers=headers) as r:
            assert (r.status, (await r.json())["error"]["code"]) == (415, "unsupported_encoding")


async def test_body_that_says_that_it_is_not_compressed_is_read(small: System) -> None:
    headers = {"Content-Encoding": "identity"}
    assert (await small.post("/generate", {"model": "math", "input_ids": [5]}, headers=headers))[0] == 200
