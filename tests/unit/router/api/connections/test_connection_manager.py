"""Client connections: the router ends those without progress, and no others."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.api.connections.connection_manager import most_connections
from sun_sglang.router.health.prober import Prober
from tests.support.certificate import self_signed
from tests.unit.router.conftest import DEADLINES, PATIENCE_S, SUN, Start, System
from tests.unit.router.fake_worker import Fault

ASK = {"model": "math", "input_ids": [5, 6, 7]}
BODY = orjson.dumps(ASK)
HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
MANY_S = 1e6


class Peer:
    """A client that speaks in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, system: System) -> Peer:
        host, port = system.router.url.removeprefix("http://").removeprefix("https://").rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            return int(first.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def rest(self) -> bytes:
        """Return all bytes up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                return await self.reader.read()
            return b""

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
def small(small: System) -> System:
    # time passes for connections when a test advances it, and not when the machine is slow
    small.router.loops.tasks[0].cancel()
    return small


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.close()


async def join(system: System, peers: list[Peer], sent: bytes = b"") -> Peer:
    """Open a connection and wait until the router has accepted it, with the given part of a header."""
    before = system.router.clients.count
    peers.append(await Peer.of(system))
    await wait_until(lambda: system.router.clients.count == before + 1)
    if sent:
        began = len(started(system))
        peers[-1].send(sent)
        if b"\r\n\r\n" not in sent:
            await wait_until(lambda: len(started(system)) == began + 1)
    return peers[-1]


def started(system: System) -> list[Any]:
    return [c for c in system.router.clients._open.values() if c._started]


def busy(system: System) -> int:
    return system.router.clients.counts()["busy"]


def pass_time(system: System, seconds: float) -> None:
    """Advance the time of the connections by some seconds."""
    system.router.clients.clock += seconds
    system.router.clients._sweep()


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "limit", "answer"),
    [
        (b"", 60.0, b""),
        (b"G", 10.0, b"HTTP/1.1 408 "),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", 10.0, b"HTTP/1.1 408 "),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 500, 10.0, b"HTTP/1.1 408 "),
    ],
)
async def test_a_header_that_is_not_complete_in_time_ends_its_connection(
    small: System, peers: list[Peer], sent: bytes, limit: float, answer: bytes
) -> None:
    peer = await join(small, peers, sent)
    pass_time(small, limit - 1.0)
    assert not small.metric("sun_connections_ended_total", why="header")
    pass_time(small, 2.0)
    assert (await peer.rest()).startswith(answer)
    assert small.metric("sun_connections_ended_total", why="header") == 1
    assert small.events[-1]["event"] == "connections_ended"
    assert small.events[-1]["header"] == 1


async def test_a_connection_that_was_silent_has_as_much_time_for_its_header(small: System, peers: list[Peer]) -> None:
    peer = await join(small, peers)
    pass_time(small, 59.0)
    peer.send(b"GET /livez HTTP/1.1\r\n")
    await wait_until(lambda: started(small))
    pass_time(small, 9.0)
    peer.send(b"Host: x\r\n\r\n")
    assert (await peer.answer())[0] == 200


async def test_a_header_that_comes_byte_by_byte_gains_no_time(small: System, peers: list[Peer]) -> None:
    peer = await join(small, peers, b"GET /he")
    (connection,) = started(small)
    for seconds in range(1, 12):
        peer.send(b"a")
        await wait_until(lambda s=seconds: connection._received == 7 + s)
        pass_time(small, 1.0)
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_second_header_has_a_deadline_of_its_own(small: System, peers: list[Peer]) -> None:
    peer = await join(small, peers, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await peer.answer())[0] == 200
    await wait_until(lambda: not busy(small))
    pass_time(small, MANY_S)  # a kept connection may rest
    peer.send(b"GET /health")
    await wait_until(lambda: started(small))
    pass_time(small, 11.0)
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("early", [b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\n"])
async def test_a_header_that_began_before_the_last_answer_has_a_deadline(
    small: System, peers: list[Peer], early: bytes
) -> None:
    small["base-0"].fault = Fault(hang_after=2, times=1)
    peer = await join(small, peers, HEAD + BODY)
    await wait_until(lambda: small["base-0"].running)
    (connection,) = [c for c in small.router.clients._open.values() if c.request is not None]
    before = connection._received
    peer.send(early)
    await wait_until(lambda: connection._received == before + len(early))
    pass_time(small, MANY_S)  # no deadline while the answer is made
    for ticket in list(small.router.in_flight.tickets):
        small.router.dispatcher.abort(ticket)
    for _ in range(early.count(b"\r\n\r\n") + 1):
        assert (await peer.answer())[0] == 200
    await wait_until(lambda: started(small))
    pass_time(small, 11.0)
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("after", [b"", b"\r\n"])
async def test_a_kept_connection_rests_after_a_chunked_body(small: System, peers: list[Peer], after: bytes) -> None:
    head = HEAD[: HEAD.index(b"Content-Length")] + b"Transfer-Encoding: chunked\r\n\r\n"
    peer = await join(small, peers, head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) + after)
    for _ in range(2):
        assert (await peer.answer())[0] == 200
        await wait_until(lambda: not busy(small))
        pass_time(small, MANY_S)
        peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_a_connection_whose_request_waits_for_its_answer_is_kept(small: System, peers: list[Peer]) -> None:
    small["base-0"].fault = Fault(hang_after=2)
    peer = await join(small, peers, HEAD + BODY)
    await wait_until(lambda: small["base-0"].running)
    pass_time(small, MANY_S)
    pass_time(small, MANY_S)
    small["base-0"].fault = None
    for ticket in list(small.router.in_flight.tickets):
        small.router.dispatcher.abort(ticket)
    assert (await peer.answer())[0] == 200
    assert not small.metric("sun_connections_ended_total", why="header")


async def test_time_for_which_the_router_was_stopped_is_no_clients_fault(
    monkeypatch: pytest.MonkeyPatch, small: System
) -> None:
    clients, sweeps = small.router.clients, []
    clients.deadlines = replace(clients.deadlines, client_sweep=0.001)
    monkeypatch.setattr(clients, "_now", lambda: 7.0)  # the router's clock stands still
    monkeypatch.setattr(clients, "_sweep", lambda: sweeps.append(clients.clock))
    before, watch = clients.clock, asyncio.create_task(clients.run())
    await wait_until(lambda: len(sweeps) > 10)
    watch.cancel()
    assert set(sweeps) == {before}


# --- bodies ---------------------------------------------------------------------------------------------------------


async def test_a_body_that_does_not_arrive_gets_408_and_one_that_goes_on_is_served(
    small: System, peers: list[Peer]
) -> None:
    slow = await join(small, peers, HEAD + BODY[:5])
    await wait_until(lambda: busy(small) == 1)
    pass_time(small, 19.0)
    pass_time(small, 2.0)
    status, headers, body = await slow.answer()
    assert (status, orjson.loads(body)["error"]["code"], headers["connection"]) == (408, "body_timeout", "close")
    assert await slow.rest() == b""
    large = orjson.dumps({**ASK, "user": "u" * 100_000})
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(large))
    steady = await join(small, peers, head + large[:50_000])
    await wait_until(lambda: any(c._received > 49_000 for c in small.router.clients._open.values()))
    pass_time(small, 100.0)  # 50,000 bytes add that many seconds
    steady.send(large[50_000:])
    assert (await steady.answer())[0] == 200
    assert small.metric("sun_connections_ended_total", why="body") == 1
    assert not [e for e in small.events if e["event"] in ("defect", "library")]


# --- the bound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("descriptors", "most"), [(0, 1), (256, 64), (1024, 320), (1 << 20, 16384)])
def test_two_of_three_descriptors_are_left_for_workers(descriptors: int, most: int) -> None:
    assert most_connections(descriptors) == most


@pytest.fixture
async def three(start: Start, monkeypatch: pytest.MonkeyPatch) -> System:
    """Start a router that has room for three connections."""
    monkeypatch.setattr("sun_sglang.router.app.most_connections", lambda _: 3)
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1})
    return system


async def test_over_the_bound_the_connection_that_waited_longest_makes_room(three: System, peers: list[Peer]) -> None:
    first, second, third = [await join(three, peers, b"GET /") for _ in range(3)]
    fourth = await Peer.of(three)
    peers.append(fourth)
    fourth.send(HEAD + BODY)
    assert (await fourth.answer())[0] == 200
    assert (await first.rest()).startswith(b"HTTP/1.1 408 ")
    for peer in (second, third):
        peer.send(b"health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peer.answer())[0] == 200
    assert three.metric("sun_connections_ended_total", why="full") == 1


async def test_over_the_bound_a_request_under_way_is_kept_and_the_new_connection_closed(
    three: System, peers: list[Peer]
) -> None:
    three["base-0"].fault = Fault(hang_after=2)
    for i in range(3):
        await join(three, peers, HEAD + BODY)
        await wait_until(lambda i=i: len(three["base-0"].running) == i + 1)
    over = await Peer.of(three)
    peers.append(over)
    assert await over.rest() == b""
    assert len(three["base-0"].running) == 3
    assert three.metric("sun_connections_ended_total", why="full") == 1
    for ticket in list(three.router.in_flight.tickets):
        three.router.dispatcher.abort(ticket)
    for peer in peers[:3]:
        await peer.answer()
    three["base-0"].fault = None
    again = await Peer.of(three)
    peers.append(again)
    again.send(HEAD + BODY)
    assert (await again.answer())[0] == 200


async def test_handshakes_count_and_end(start: Start, peers: list[Peer], tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, "router.test")
    router = {"tls_cert": str(cert), "tls_key": str(key)}
    deadlines = replace(DEADLINES, client_handshake=0.2)
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=router, deadlines=deadlines)
    silent, garbage = [await Peer.of(system) for _ in range(2)]
    peers += [silent, garbage]
    garbage.send(b"GET / HTTP/1.1\r\n\r\n")
    await garbage.rest()
    await silent.rest()
    await wait_until(lambda: system.router.clients.count == 0)
    async with aiohttp.ClientSession() as client, client.get(f"{system.router.url}/health", ssl=False) as r:
        assert r.status == 200


# --- no descriptor --------------------------------------------------------------------------------------------------


async def test_a_router_without_descriptors_blames_no_worker(small: System, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def none_left(*_: Any, sock: socket.socket | None = None, **__: Any) -> Any:
        if sock is not None:
            sock.close()  # the client session has made it
        raise OSError(errno.EMFILE, "Too many open files")

    assert (await small.post("/generate", ASK))[0] == 200  # its connection stays open
    for origin in small.router.dispatcher.client.pool._origins.values():
        while origin.idle:
            origin.idle.pop().connection.close()
    monkeypatch.setattr(loop, "create_connection", none_left)
    status, reply = await small.post("/generate", ASK)
    assert (status, reply["error"]["code"]) == (503, "overloaded")
    assert "too many connections" in reply["error"]["message"]
    monkeypatch.undo()
    assert all(small.router.registry.state(name) == "ready" for name in small.workers)
    assert not any(e["event"] == "worker_ejected" for e in small.events)
    assert (await small.post("/generate", ASK))[0] == 200


async def test_a_card_that_the_router_cannot_ask_for_says_nothing_of_the_worker(
    small: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def none_left(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        raise aiohttp.ClientConnectorError(None, OSError(errno.EMFILE, "Too many open files"))  # type: ignore[arg-type]  # its text is not asked for

    monkeypatch.setattr("sun_sglang.router.health.card_reader.describe_error", lambda _: "no descriptor")
    monkeypatch.setattr(small.router._session, "get", none_left)
    await wait_until(lambda: asked > 30)
    assert all(small.router.registry.state(name) == "ready" for name in small.workers)
    assert isinstance(small.router.prober, Prober)


# --- the end --------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_arriving_when_the_router_is_told_to_stop_is_served(
    small: System, peers: list[Peer]
) -> None:
    peer = await join(small, peers, HEAD + BODY[:5])
    await wait_until(lambda: busy(small) == 1)
    stopping = asyncio.create_task(small.router.stop(PATIENCE_S))
    await wait_until(lambda: small.events[-1]["event"] == "draining")
    assert small.events[-1]["in_flight"] == 1
    late = await Peer.of(small)
    peers.append(late)
    late.send(HEAD + BODY)
    assert (await late.answer())[0] == 503
    peer.send(BODY[5:])
    assert (await peer.answer())[0] == 200
    await stopping


async def test_a_body_that_does_not_arrive_before_the_router_ends_gets_an_error(
    small: System, peers: list[Peer]
) -> None:
    peer = await join(small, peers, HEAD + BODY[:5])
    await wait_until(lambda: busy(small) == 1)
    await small.router.stop(0.0)
    status, _, body = await peer.answer()
    assert (status, orjson.loads(body)["error"]["code"]) == (503, "draining")
    assert small.events[-1] == {**small.events[-1], "event": "stopped", "cut_off": 1}
