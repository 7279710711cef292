"""Connections to workers: kept, closed when old, broken off, refused, and over a server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from sun_sglang.router import connections as module
from sun_sglang.router.connections import Connections, NotConnectedError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads a request's head and body, then does what it is told; counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.answers: list[Answer] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else says(OK)
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def says(data: bytes, *, then_close: bool = False) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    await made.stop()


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    made = Connections()
    yield made
    made.close()


async def test_a_request_and_its_answer(server: Server, connections: Connections) -> None:
    base = await server.start()
    response = await connections.post(base, "/generate", b'{"a":1}')
    assert (response.status, await response.read()) == (200, b"ok")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.splitlines() == [
        b"POST /generate HTTP/1.1",
        b"Host: " + base.removeprefix("http://").encode(),
        b"Content-Type: application/json",
        b"Content-Length: 7",
    ]


async def test_a_connection_is_used_again_one_at_a_time(server: Server, connections: Connections) -> None:
    base = await server.start()
    for _ in range(3):
        await (await connections.post(base, "/a", b"{}")).read()
    assert (server.connections, connections.kept) == (1, 1)
    await asyncio.gather(*(connections.post(base, "/a", b"{}") for _ in range(3)))
    assert server.connections == connections.kept == 3
    await connections.post(base, "/a", b"{}", fresh=True)
    assert server.connections == 4


async def test_a_connection_that_its_worker_wants_closed(server: Server, connections: Connections) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")]
    assert await (await connections.post(base, "/", b"{}")).read() == b"ok"
    assert await (await connections.post(base, "/", b"{}")).read() == b"ok"
    assert server.connections == 2


async def test_old_connections_are_closed(
    server: Server, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_S", 0.02)
    base = await server.start()
    await asyncio.gather(*(connections.post(base, "/", b"{}") for _ in range(2)))
    async with asyncio.timeout(10):
        while connections.kept:
            await asyncio.sleep(0.005)
    await connections.post(base, "/", b"{}")
    assert server.connections == 3


async def test_nobody_listens(connections: Connections, unused_tcp_port: int) -> None:
    with pytest.raises(NotConnectedError, match=f"cannot connect to 127.0.0.1:{unused_tcp_port}"):
        await connections.post(f"http://127.0.0.1:{unused_tcp_port}", "/", b"{}")


async def test_a_connection_that_closes_before_an_answer(server: Server, connections: Connections) -> None:
    base = await server.start()
    server.answers = [says(b"", then_close=True)]
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await connections.post(base, "/", b"{}")
    assert connections.kept == 0


@pytest.mark.parametrize("rest", [b"Content-Length: 9\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"])
async def test_an_answer_that_breaks_in_the_middle(server: Server, connections: Connections, rest: bytes) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\n" + rest, then_close=True)]
    response = await connections.post(base, "/", b"{}")
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()
    assert connections.kept == 0


@pytest.mark.parametrize("data", [b"hello\r\n\r\n", OK + b"more", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_an_answer_that_is_no_http(server: Server, connections: Connections, data: bytes) -> None:
    base = await server.start()
    server.answers = [says(data)]
    with pytest.raises(aiohttp.ClientPayloadError, match="not HTTP"):
        await connections.post(base, "/", b"{}")
    assert connections.kept == 0


async def test_an_answer_without_a_length_ends_with_its_connection(server: Server, connections: Connections) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_close=True)]
    assert await (await connections.post(base, "/", b"{}")).read() == b"all of it"


async def test_closing_a_response_wakes_its_reader(server: Server, connections: Connections) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")]
    response = await connections.post(base, "/", b"{}")
    assert await response.content.readany() == b"ok"
    reading = asyncio.create_task(response.content.readany())
    await asyncio.sleep(0)
    response.close()
    with pytest.raises(aiohttp.ClientConnectionError):
        await reading
    assert connections.kept == 0


async def test_giving_up_closes_the_connection(server: Server, connections: Connections) -> None:
    base = await server.start()
    left = asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()
        left.set()

    server.answers = [never]
    asking = asyncio.create_task(connections.post(base, "/", b"{}"))
    async with asyncio.timeout(10):
        while not server.requests:
            await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert connections.kept == 0


async def test_closing_closes_what_is_kept_and_keeps_nothing_after(server: Server, connections: Connections) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")]
    response = await connections.post(base, "/", b"{}")
    await connections.post(base, "/", b"{}")
    connections.close()
    assert connections.kept == 0
    response.close()
    assert connections.kept == 0
