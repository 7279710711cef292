"""Exchanges with workers: connections kept, closed when old, broken off, refused; a server that misbehaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.transport.connection_pool import ConnectionPool
from sun_sglang.router.transport.errors import BrokenError, LegError
from sun_sglang.router.transport.leg_exchange import MAX_REPLY_BYTES, LegExchange
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult
from tests.support.ports import PORTS
from tests.unit.router.conftest import DEADLINES, PATIENCE_S

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PairResponse = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads a request's head and body, then runs the given reply; counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.answers: list[PairResponse] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def write_to_all(self, data: bytes) -> None:
        for writer in self._writers:
            writer.write(data)

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                _, _, length_on = head.lower().partition(b"content-length: ")
                length = int(length_on.split(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else says(OK)
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def says(data: bytes, *, then_close: bool = False) -> PairResponse:
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


class Client:
    """Sends requests, and keeps their results."""

    def __init__(self, deadlines: Deadlines = DEADLINES) -> None:
        self.pool = ConnectionPool(Clock(asyncio.get_running_loop(), lambda _: None), deadlines)
        self.said: list[LegResult] = []

    def send(
        self, base: str, path: str = "/", body: bytes = b"{}", *, streams: bool = False, most: int = MAX_REPLY_BYTES
    ) -> LegExchange:
        return LegExchange(self.pool.origin(base), path, body, self.said.append, streams=streams, max_bytes=most)

    async def ask(self, base: str, path: str = "/", body: bytes | None = b"{}", *, fresh: bool = False) -> LegResult:
        """Send one request and return its answer."""
        said: asyncio.Future[LegResult] = asyncio.get_running_loop().create_future()
        LegExchange(self.pool.origin(base), path, body, said.set_result, fresh=fresh)
        async with asyncio.timeout(PATIENCE_S):
            return await said


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client()
    yield made
    made.pool.close()


FIRST = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab\n\n\r\n"
END = b"0\r\n\r\n"


async def test_a_request_and_its_answer(server: Server, client: Client) -> None:
    base = await server.start()
    assert await client.ask(base, "/generate", b'{"a":1}') == LegResponse(200, b"ok")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.splitlines() == [
        b"POST /generate HTTP/1.1",
        b"Host: " + base.removeprefix("http://").encode(),
        b"Content-Type: application/json",
        b"Content-Length: 7",
    ]


async def test_a_connection_is_used_again_one_at_a_time(server: Server, client: Client) -> None:
    base = await server.start()
    for _ in range(3):
        await client.ask(base)
    assert (server.connections, client.pool.idle_count) == (1, 1)
    await asyncio.gather(*(client.ask(base) for _ in range(3)))
    assert server.connections == client.pool.idle_count == 3


async def test_a_connection_that_its_worker_wants_closed(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")]
    assert await client.ask(base) == await client.ask(base) == LegResponse(200, b"ok")
    assert server.connections == 2


async def test_old_connections_are_closed(server: Server) -> None:
    client = Client(replace(DEADLINES, keepalive=0.02))
    base = await server.start()
    await asyncio.gather(*(client.ask(base) for _ in range(2)))
    await wait_until(lambda: not client.pool.idle_count)
    await client.ask(base)
    assert server.connections == 3
    client.pool.close()


async def test_nobody_listens(client: Client) -> None:
    port = next(PORTS)
    said = await client.ask(f"http://127.0.0.1:{port}")
    assert isinstance(said, LegFailure)
    assert said.refused
    assert said.detail.startswith(f"cannot connect to 127.0.0.1:{port} (")


async def test_exchange_kept_connection_closes_without_an_answer_is_stale_and_sent_once(
    server: Server, client: Client
) -> None:
    base = await server.start()
    server.answers = [says(OK), says(b"", then_close=True)]
    assert await client.ask(base, "/a") == LegResponse(200, b"ok")
    assert await client.ask(base, "/b") == LegFailure("it closed the connection without an answer", stale=True)
    assert [r.split(b" ")[1] for r in server.requests] == [b"/a", b"/b"]
    assert (server.connections, client.pool.idle_count) == (1, 0)


async def test_exchange_new_connection_closes_without_an_answer_is_a_loss(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(b"", then_close=True)]
    assert await client.ask(base) == LegFailure("it closed the connection without an answer")
    assert (len(server.requests), client.pool.idle_count) == (1, 0)


async def test_exchange_fresh_uses_no_kept_connection(server: Server, client: Client) -> None:
    base = await server.start()
    assert await client.ask(base) == await client.ask(base, "/card", None, fresh=True) == LegResponse(200, b"ok")
    assert server.connections == 2
    assert server.requests[1].startswith(b"GET /card HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_connection_that_carried_a_500_is_not_kept(server: Server, client: Client) -> None:
    """Uvicorn closes it after an unhandled exception, and does not announce that."""
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno")]
    assert await client.ask(base) == LegResponse(500, b"no")
    assert client.pool.idle_count == 0


async def test_a_server_that_died_keeps_the_first_error(server: Server, client: Client) -> None:
    base = await server.start()
    await client.ask(base)
    await server.stop()
    # what was kept is closed by then, or is found to be when it is written to
    said = await client.ask(base)
    assert isinstance(said, LegFailure)
    assert client.pool.idle_count == 0


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 9\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"\r\nok"]
)
async def test_an_answer_that_breaks_in_the_middle(server: Server, client: Client, rest: bytes) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\n" + rest, then_close=True)]
    assert await client.ask(base) == LegFailure("it closed the connection in the middle of an answer")
    assert (len(server.requests), client.pool.idle_count) == (1, 0), "part of an answer may be an effect"


@pytest.mark.parametrize("data", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_an_answer_that_is_no_http(server: Server, client: Client, data: bytes) -> None:
    base = await server.start()
    server.answers = [says(data)]
    said = await client.ask(base)
    assert isinstance(said, LegFailure)
    assert said.detail.startswith("the answer is not HTTP: ")
    assert (len(server.requests), client.pool.idle_count) == (1, 0)


async def test_exchange_answer_without_an_end_is_broken_off(server: Server, client: Client) -> None:
    base = await server.start()

    async def floods(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"%x\r\n" % (1 << 16) + b"x" * (1 << 16) + b"\r\n")
            await writer.drain()

    server.answers = [floods]
    assert await client.ask(base) == LegFailure("its answer is over 1 MiB", oversized=True)
    assert client.pool.idle_count == 0


async def test_exchange_header_without_an_end_is_broken_off(server: Server, client: Client) -> None:
    base = await server.start()

    async def floods(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: " + b"y" * (1 << 12) + b"\r\n")
            await writer.drain()

    server.answers = [floods]
    assert await client.ask(base) == LegFailure("the answer's header is over 65536 bytes")
    assert client.pool.idle_count == 0


async def test_what_comes_after_an_answer_ends_its_connection(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(OK + b"more")]
    assert await client.ask(base) == await client.ask(base) == LegResponse(200, b"ok")
    assert server.connections == 2


async def test_connection_that_brings_an_answer_nobody_asked_for_is_not_used_again(
    server: Server, client: Client
) -> None:
    base = await server.start()
    assert await client.ask(base) == LegResponse(200, b"ok")
    server.write_to_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
    (idle,) = client.pool.origin(base).idle
    await wait_until(lambda: not idle.connection.is_open)
    assert await client.ask(base) == LegResponse(200, b"ok")
    assert server.connections == 2


async def test_connection_that_brings_a_second_answer_with_the_first_is_not_used_again(
    server: Server, client: Client
) -> None:
    base = await server.start()
    server.answers = [says(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfor")]
    assert await client.ask(base) == LegResponse(200, b"ok")
    assert await client.ask(base) == LegResponse(200, b"ok")
    assert server.connections == 2


async def test_exchange_interim_answers_are_skipped(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK)]
    assert await client.ask(base) == await client.ask(base) == LegResponse(200, b"ok")
    assert server.connections == 1


async def test_exchange_interim_answers_without_an_end_are_broken_off(server: Server, client: Client) -> None:
    base = await server.start()

    async def floods(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await writer.drain()

    server.answers = [floods]
    assert await client.ask(base) == LegFailure("the answer's header is over 65536 bytes")


async def test_exchange_answer_in_chunks_of_one_byte_is_bounded_by_its_memory(server: Server, client: Client) -> None:
    base = await server.start()
    chunks = b"1\r\nx\r\n" * 4000
    server.answers = [says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + END)]
    client.send(base, most=1 << 16)
    await wait_until(lambda: client.said)
    assert client.said == [LegFailure("its answer is over 0.0625 MiB", oversized=True)]


async def test_exchange_stream_in_chunks_of_one_byte_is_held_back_by_its_memory(server: Server, client: Client) -> None:
    base = await server.start()
    go_on = asyncio.Event()

    async def trickles(writer: asyncio.StreamWriter) -> None:
        writer.write(FIRST + b"1\r\nx\r\n" * 8000)
        await go_on.wait()
        writer.write(END)

    server.answers = [trickles]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: exchange._paused)
    go_on.set()
    got = b""
    while piece := await exchange.read():
        got += piece
    assert got == b"x" * 8000


async def test_a_stream_is_told_of_at_its_first_event_and_read_to_its_end(server: Server, client: Client) -> None:
    base = await server.start()
    go_on = asyncio.Event()

    async def streams(writer: asyncio.StreamWriter) -> None:
        for data in (FIRST[:-4], FIRST[-4:]):
            writer.write(data)
            await writer.drain()
        await go_on.wait()
        writer.write(b"1\r\nc\r\n" + END)

    server.answers = [streams]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: client.said)
    assert client.said == [LegResponse(200, b"ab\n\n", streamed=True)]
    reading = asyncio.create_task(exchange.read())
    go_on.set()
    assert (await reading, await exchange.read()) == (b"c", b"")
    assert exchange.over
    assert client.pool.idle_count == 1


async def test_a_stream_without_an_event_is_a_loss(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + END)]
    client.send(base, streams=True)
    await wait_until(lambda: client.said)
    assert client.said == [LegFailure("the stream ended before its first token")]


async def test_a_slow_reader_holds_the_worker_back_and_gets_everything(server: Server, client: Client) -> None:
    base = await server.start()
    size, sent = 1 << 25, 0

    async def floods(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        # what a kernel would buffer by itself is the machine's setting
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        writer.write(FIRST)
        piece = b"%x\r\n" % (1 << 16) + b"x" * (1 << 16) + b"\r\n"
        while sent < size:
            writer.write(piece)
            sent += 1 << 16
            await writer.drain()
        writer.write(END)

    server.answers = [floods, says(OK)]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: exchange._paused)
    await asyncio.sleep(0)
    assert sent < size, "sockets hold a few MiB, and the server waits"
    got = 0
    while piece := await exchange.read():
        got += len(piece)
    assert got == size
    assert await client.ask(base) == LegResponse(200, b"ok"), "the connection reads again"
    assert server.connections == 1


async def test_what_a_stream_still_brings_can_be_dropped(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(FIRST + b"1\r\nc\r\n" + END)]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: client.said)
    async with asyncio.timeout(PATIENCE_S):
        await exchange.finished()
    assert client.pool.idle_count == 1


async def test_a_stream_that_breaks_is_read_up_to_there(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(FIRST + b"1\r\nc\r\n", then_close=True)]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: exchange.over)
    assert await exchange.read() in (b"c", b"ab\n\nc")
    with pytest.raises(BrokenError, match="in the middle"):
        await exchange.read()
    with pytest.raises(BrokenError, match="in the middle"):
        await exchange.finished()


async def test_closing_wakes_the_reader(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(FIRST)]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: client.said)
    reading = asyncio.create_task(exchange.read())
    await asyncio.sleep(0)
    exchange.close()
    with pytest.raises(LegError):
        await reading
    assert client.pool.idle_count == 0


async def test_giving_up_closes_the_connection_and_says_nothing(server: Server, client: Client) -> None:
    base = await server.start()
    left = asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()
        left.set()

    server.answers = [never]
    exchange = client.send(base)
    await wait_until(lambda: server.requests)
    exchange.close()
    server.close_all()
    async with asyncio.timeout(PATIENCE_S):
        await left.wait()
    assert (client.said, client.pool.idle_count) == ([], 0)


async def test_giving_up_while_it_connects(client: Client) -> None:
    exchange = client.send(f"http://127.0.0.1:{next(PORTS)}")
    exchange.close()
    await asyncio.sleep(0.01)
    assert client.said == []
    assert exchange.over


async def test_closing_closes_what_is_kept_and_keeps_nothing_after(server: Server, client: Client) -> None:
    base = await server.start()
    server.answers = [says(FIRST)]
    exchange = client.send(base, streams=True)
    await wait_until(lambda: client.said)
    await client.ask(base)
    client.pool.close()
    assert client.pool.idle_count == 0
    exchange.close()
    assert client.pool.idle_count == 0


async def test_connection_that_the_worker_closed_is_not_open_before_the_event_loop_sees_it(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as worker:
        connection = await client.pool.origin(f"http://127.0.0.1:{worker.getsockname()[1]}").connect()
        peer, _ = worker.accept()
        assert connection.is_open
        # the event loop does not run between the two
        peer.close()
        assert not connection.is_open
        connection.close()
