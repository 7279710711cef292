"""The bootstrap connections between emulated workers: JSON lines over TCP on the prefill worker's bootstrap port.

SGLang uses HTTP and ZMQ, and moves KV by RDMA. The emulation keeps the events of each side and their order. A decode
worker looks up an address once, which blocks all its work as it blocks SGLang's scheduler. It sends `ready` for a room
when it has reserved KV, and `abort` when it gives the room up. The prefill worker answers a room with `kv`. A decode
worker detects a dead prefill worker by its heartbeats only, never by a broken connection
(disaggregation/common/conn.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

Message = dict[str, Any]
Address = tuple[str, int]
_LIMIT = 1 << 20


class UnreachableError(Exception):
    """No prefill worker answers at the address."""


class Link:
    """One connection, on either side.

    Args:
        writer: the connection.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @property
    def open(self) -> bool:
        """Whether the connection still accepts messages."""
        return not self._writer.is_closing()

    def send(self, **message: Any) -> bool:
        """Write a message. Return False if the other side has closed the connection."""
        if self._writer.is_closing():
            return False
        self._writer.write(orjson.dumps(message) + b"\n")
        return True

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class BootstrapServer:
    """The prefill worker's side.

    Args:
        is_silent: returns whether to ignore every message of decode workers.
        on_ready: called with a room, the prompt tokens that the decode worker has cached, and the link to it.
        on_abort: called with a room that its decode worker gave up.
        on_lost: called with a link that its decode worker closed.
    """

    def __init__(
        self,
        *,
        is_silent: Callable[[], bool],
        on_ready: Callable[[int, int, Link], None],
        on_abort: Callable[[int], None],
        on_lost: Callable[[Link], None],
    ) -> None:
        self._is_silent = is_silent
        self._on_ready = on_ready
        self._on_abort = on_abort
        self._on_lost = on_lost
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], Link] = {}

    async def start(self, host: str, port: int) -> int:
        """Start to listen, and return the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_LIMIT)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for link in self._serving.values():
            link.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = Link(writer)
        self._serving[task] = link
        try:
            while line := await reader.readline():
                if not self._is_silent():
                    self._dispatch(orjson.loads(line), link)
        except (OSError, ValueError):
            return  # a broken connection and an invalid message both mean that the peer is gone
        finally:
            del self._serving[task]
            link.close()
            self._on_lost(link)

    def _dispatch(self, message: Message, link: Link) -> None:
        match message["op"]:
            case "ping":
                link.send(op="pong")
            case "ready":
                self._on_ready(message["room"], message["cached"], link)
            case "abort":
                self._on_abort(message["room"])


class PrefillPeer:
    """A decode worker's connection to one prefill worker.

    Args:
        address: host and bootstrap port.
        on_message: called with every message but heartbeats.

    Attributes:
        failures: heartbeats missed in a row.
    """

    def __init__(self, address: Address, on_message: Callable[[Message], None]) -> None:
        self.address = address
        self.failures = 0
        self._on_message = on_message
        self._link: Link | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pongs: list[asyncio.Future[None]] = []

    async def ping(self, timeout: float) -> None:
        """Connect if there is no connection, and wait for an answer to a heartbeat.

        Raises:
            UnreachableError: no answer within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._link is None or not self._link.open:
                    await self._connect()
                assert self._link is not None
                pong = asyncio.get_running_loop().create_future()
                self._pongs.append(pong)
                self._link.send(op="ping")
                await pong
        except (OSError, TimeoutError) as e:
            raise UnreachableError(f"{self.address[0]}:{self.address[1]}") from e

    def send(self, **message: Any) -> None:
        """Write a message. Without a connection the message is lost, as it is in SGLang."""
        if self._link is not None:
            self._link.send(**message)

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _connect(self) -> None:
        await self.close()
        reader, writer = await asyncio.open_connection(*self.address, limit=_LIMIT)
        self._link = Link(writer)
        self._listening = asyncio.create_task(self._listen(reader, self._link))

    async def _listen(self, reader: asyncio.StreamReader, link: Link) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                message = orjson.loads(line)
                if message["op"] == "pong":
                    self._on_pong()
                else:
                    self._on_message(message)
        link.close()

    def _on_pong(self) -> None:
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not pong.done():
                pong.set_result(None)


class PrefillPeers:
    """All prefill workers to which a decode worker has connected.

    Args:
        interval: seconds between heartbeats.
        failures: missed heartbeats in a row after which a peer counts as dead.
        lookup_timeout: seconds within which a new address must answer.
        on_message: called with every message.
        on_lost: called with the address of a dead peer.
    """

    def __init__(
        self,
        *,
        interval: float,
        failures: int,
        lookup_timeout: float,
        on_message: Callable[[Message], None],
        on_lost: Callable[[Address], None],
    ) -> None:
        self._interval = interval
        self._failures = failures
        self._lookup_timeout = lookup_timeout
        self._on_message = on_message
        self._on_lost = on_lost
        self._peers: dict[Address, PrefillPeer] = {}

    def get(self, address: Address) -> PrefillPeer | None:
        """Return the peer at an address; None if there is no connection to it."""
        return self._peers.get(address)

    async def connect(self, address: Address) -> None:
        """Connect to the prefill worker at an address.

        Raises:
            UnreachableError: no prefill worker answers there.
        """
        peer = PrefillPeer(address, self._on_message)
        try:
            await peer.ping(self._lookup_timeout)
        except UnreachableError:
            await peer.close()
            raise
        self._peers[address] = peer

    async def send_heartbeats(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.beat()

    async def beat(self) -> None:
        """Send one heartbeat to each peer, and give up those that have missed too many."""
        await asyncio.gather(*(self._beat(peer) for peer in list(self._peers.values())))

    async def close(self) -> None:
        """Close every connection."""
        for peer in self._peers.values():
            await peer.close()

    async def _beat(self, peer: PrefillPeer) -> None:
        try:
            await peer.ping(self._interval)
            peer.failures = 0
        except UnreachableError:
            peer.failures += 1
        if peer.failures >= self._failures:
            del self._peers[peer.address]
            await peer.close()
            self._on_lost(peer.address)
