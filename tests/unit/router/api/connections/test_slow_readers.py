"""Clients that read slowly or not at all: when their slots are free, and when they are disconnected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.api.connections.slow_readers import MIN_BYTES, Accepted, ResponseDelivery
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.request_context import RequestContext
from tests.unit.router.conftest import SUN, Start, System


@dataclass
class Client:
    """A transport and a writer: what was written, and how much of it the client has not accepted."""

    output_size: int = 0
    left: int = 0

    def get_write_buffer_size(self) -> int:
        return self.left

    def delivery(self) -> ResponseDelivery:
        return ResponseDelivery(
            cast(asyncio.Transport, self), self, RequestContext(), "/generate", "r", Accepted(0, 0.0)
        )


def stuck_after(client: Client, accepts: int, writes: int = 0, limit: float = 60.0) -> int | None:
    """Return the second at which a client that accepts `accepts` bytes/s is stuck; None if not within an hour."""
    delivery = client.delivery()
    for second in range(3600):
        if delivery.is_stuck(float(second), limit):
            return second
        client.output_size += writes
        client.left = max(0, client.left + writes - accepts)
    return None


def test_client_that_accepts_nothing_is_stuck_after_the_limit() -> None:
    assert stuck_after(Client(output_size=100, left=100), accepts=0) == 61


def test_client_that_accepts_a_few_bytes_at_a_time_is_stuck_after_the_limit() -> None:
    assert stuck_after(Client(output_size=1 << 20, left=1 << 20), accepts=20) == 61


def test_client_that_accepts_nothing_of_a_slow_stream_is_stuck_after_the_limit() -> None:
    assert stuck_after(Client(), accepts=0, writes=200) == 61


def test_client_that_is_slow_and_steady_is_not_stuck() -> None:
    rate = MIN_BYTES // 30
    assert stuck_after(Client(output_size=1 << 30, left=1 << 30), accepts=rate) is None
    assert stuck_after(Client(), accepts=rate, writes=2 * rate) is None


def test_client_that_waits_for_a_slow_worker_is_not_stuck() -> None:
    assert stuck_after(Client(output_size=100), accepts=0) is None


def test_client_that_accepts_what_is_left_is_not_stuck() -> None:
    assert stuck_after(Client(output_size=3000, left=3000), accepts=60) is None


def generate(tokens: int, **more: Any) -> dict[str, Any]:
    """Return a request for a stream of some 6 * tokens^2 bytes: each event holds all tokens so far."""
    return {"model": "math", "text": "hi", "stream": True, "sampling_params": {"max_new_tokens": tokens}, **more}


async def test_slot_is_free_when_decode_has_ended_although_the_client_does_not_read(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_requests": 1})
    async with stuck_client(system, generate(200)):
        status, _ = await system.post("/generate", {"model": "tool", "text": "hi"})
        assert status == 200
        assert len(system.router.in_flight.tickets) == 1, "the first answer is not delivered yet"
        assert not any(worker.load.requests for worker in system.router.registry.workers.values())
    await system.quiet()


@pytest.mark.parametrize(
    "body",
    [
        generate(900),
        generate(900, text=["a", "b"]),
        generate(900, text=[str(i) for i in range(80)], stream=False),
    ],
    ids=["one stream", "several answers in a stream", "unstreamed"],
)
async def test_client_that_does_not_read_is_disconnected(start: Start, body: dict[str, Any]) -> None:
    limits = {"write_timeout": 0.3, "max_requests": 2}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router=limits)
    async with stuck_client(system, body):
        await wait_until(lambda: system.metric("sun_requests_total", task="math", outcome="stalled") == 1)
        await system.quiet()
    assert not system["base-0"].running
    (event,) = [e for e in system.events if e["event"] == "client_stalled"]
    assert (event["path"], event["seconds"]) == ("/generate", 0.3)
    assert event["unread"] > 0
    assert (await system.post("/generate", {"model": "tool", "text": "hi"}))[0] == 200


async def test_client_that_does_not_read_an_error_is_disconnected(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"write_timeout": 0.3})

    def broken(self: Any, *_: Any) -> Any:
        raise ApiError(400, "too long a tale")

    monkeypatch.setattr(ApiError, "as_json", lambda _: b"x" * (1 << 20))
    monkeypatch.setattr(type(system.router.service), "handle", broken)
    async with stuck_client(system, generate(1)):
        await wait_until(lambda: not [c for c in system.router.connections if c.writing_paused])
    assert [e["path"] for e in system.events if e["event"] == "client_stalled"] == ["/generate"]


@asynccontextmanager
async def stuck_client(system: System, body: dict[str, Any]) -> AsyncIterator[socket.socket]:
    """Connect a client that requests a long stream and reads nothing; little fits into the sockets' buffers."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", int(system.router.url.rsplit(":", 1)[1])))
        own = client.getsockname()
        await wait_until(lambda: any(c.peername == own for c in system.router.connections))
        (connection,) = [c for c in system.router.connections if c.peername == own]
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw = orjson.dumps(body)
        head = (
            f"POST /generate HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
        )
        await loop.sock_sendall(client, head.encode() + b"\r\n\r\n" + raw)
        await wait_until(
            lambda: connection.writing_paused or any(e["event"] == "client_stalled" for e in system.events)
        )
        yield client
