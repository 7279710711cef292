"""Where emulated prefill and decode workers meet: JSON lines over TCP on the prefill worker's bootstrap port.

SGLang meets over HTTP and ZMQ and moves KV by RDMA; what is kept of that is who learns of what, and when. A decode
worker asks an address for its prefill worker once (blocking all its work, as SGLang's scheduler is blocked), says
`ready` for a room when it has reserved KV, and `abort` when it gives up. The prefill worker answers a room with `kv` or
`failed`. A broken connection tells a decode worker nothing: only its heartbeat does (disaggregation/common/conn.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

Message = dict[str, Any]
_LIMIT = 1 << 20


class UnreachableError(Exception):
    """No prefill worker answers at an address."""


class Link:
    """One connection, from either side."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @property
    def open(self) -> bool:
        """Whether it can still be written to."""
        return not self._writer.is_closing()

    def send(self, **message: Any) -> bool:
        """Write a message; False if the other side is gone."""
        if self._writer.is_closing():
            return False
        self._writer.write(orjson.dumps(message) + b"\n")
        return True

    def close(self) -> None:
        """Close it."""
        self._writer.close()


class BootstrapServer:
    """The prefill worker's side.

    Args:
        silent: whether decode workers are to get no answer.
        ready: called with a room, the prompt tokens that the decode worker has cached, and its link.
        aborted: called with a room.
        lost: called with a link whose decode worker is gone.
    """

    def __init__(
        self,
        *,
        silent: Callable[[], bool],
        ready: Callable[[int, int, Link], None],
        aborted: Callable[[int], None],
        lost: Callable[[Link], None],
    ) -> None:
        self._silent = silent
        self._ready = ready
        self._aborted = aborted
        self._lost = lost
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], Link] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen. Returns the port."""
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
                if not self._silent():
                    self._take(orjson.loads(line), link)
        except (OSError, ValueError):
            return  # a peer that breaks off or talks nonsense is one that is gone
        finally:
            del self._serving[task]
            link.close()
            self._lost(link)

    def _take(self, message: Message, link: Link) -> None:
        match message["op"]:
            case "ping":
                link.send(op="pong")
            case "ready":
                self._ready(message["room"], message["cached"], link)
            case "abort":
                self._aborted(message["room"])


class Peer:
    """A decode worker's view of one prefill worker. `failures` counts heartbeats missed in a row."""

    def __init__(self, address: tuple[str, int], take: Callable[[Message], None]) -> None:
        self.address = address
        self.failures = 0
        self._take = take
        self._link: Link | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pongs: list[asyncio.Future[None]] = []

    async def ping(self, timeout: float) -> None:
        """Connect, if need be, and have it answer.

        Raises:
            UnreachableError: it does not.
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
        """Write a message; one that cannot be written is lost, as one that its receiver never saw."""
        if self._link is not None:
            self._link.send(**message)

    async def close(self) -> None:
        """Break the connection off."""
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
                    self._answered()
                else:
                    self._take(message)
        link.close()

    def _answered(self) -> None:
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not pong.done():
                pong.set_result(None)


class Peers:
    """Every prefill worker that a decode worker knows.

    Args:
        interval: seconds between heartbeats.
        failures: missed heartbeats in a row after which a peer is given up.
        lookup_timeout: seconds that an address has to answer in when it is asked for the first time.
        take: called with every message.
        lost: called with the address of a peer that was given up.
    """

    def __init__(
        self,
        *,
        interval: float,
        failures: int,
        lookup_timeout: float,
        take: Callable[[Message], None],
        lost: Callable[[tuple[str, int]], None],
    ) -> None:
        self._interval = interval
        self._failures = failures
        self._lookup_timeout = lookup_timeout
        self._take = take
        self._lost = lost
        self._peers: dict[tuple[str, int], Peer] = {}

    def known(self, address: tuple[str, int]) -> Peer | None:
        """The peer at an address, if it was met."""
        return self._peers.get(address)

    async def look_up(self, address: tuple[str, int]) -> None:
        """Meet the peer at an address.

        Raises:
            UnreachableError: nobody answers there.
        """
        peer = Peer(address, self._take)
        try:
            await peer.ping(self._lookup_timeout)
        except UnreachableError:
            await peer.close()
            raise
        self._peers[address] = peer

    async def watch(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await asyncio.gather(*(self._beat(peer) for peer in list(self._peers.values())))

    async def close(self) -> None:
        """Break every connection off."""
        for peer in self._peers.values():
            await peer.close()

    async def _beat(self, peer: Peer) -> None:
        try:
            await peer.ping(self._interval)
            peer.failures = 0
        except UnreachableError:
            peer.failures += 1
        if peer.failures >= self._failures:
            del self._peers[peer.address]
            await peer.close()
            self._lost(peer.address)
