"""A router that clients flood: others are served, and no worker is ejected."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress

import aiohttp
import pytest

from tests.system.faults.cluster import PATIENCE_S, Cluster
from tests.system.faults.conftest import Start

DESCRIPTORS = 200


@pytest.mark.invariant("I16")
async def test_half_headers_in_thousands_stop_no_request_and_blame_no_worker(start: Start) -> None:
    cluster = await start({"math": 1, "base": 1}, descriptors=DESCRIPTORS)
    await reconnect_each_time(cluster)
    with ExitStack() as held:
        for i in range(4 * DESCRIPTORS):
            s = held.enter_context(socket.create_connection(("127.0.0.1", cluster.port), timeout=PATIENCE_S))
            with suppress(ConnectionError):
                s.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\n")
            if i % 100 == 99:
                await cluster.exact()
        metrics = await cluster.metrics()
    assert metrics['sun_connections_ended_total{why="full"}'] > 3 * DESCRIPTORS
    assert sum(v for k, v in metrics.items() if k.startswith("sun_connections{")) <= DESCRIPTORS
    assert not [k for k in metrics if k.startswith("sun_ejections_total")]
    await cluster.exact()
    await cluster.settled()


async def reconnect_each_time(cluster: Cluster) -> None:
    """Keep no connection: the router may close one that rests just when it is used again."""
    await cluster.client.close()
    cluster.client = aiohttp.ClientSession(cluster.url, connector=aiohttp.TCPConnector(force_close=True))


async def test_more_streams_than_descriptors_are_refused_and_the_others_end_whole(start: Start) -> None:
    """Each answer needs two connections to workers, which a list of prompts takes without any more from the client."""
    cluster = await start({"math": 1, "base": 1}, descriptors=DESCRIPTORS)
    many = cluster.body(prompt=[5], tokens=1)
    many["input_ids"] = [[5, 6, i] for i in range(150)]
    replies = await asyncio.gather(*(cluster.post(many) for _ in range(3)))
    for status, reply, _ in replies:
        assert status in (200, 503), reply
        if status == 503:
            assert reply["error"]["code"] == "overloaded"
    assert any(status == 503 for status, _, _ in replies), (
        "768 connections were needed: 128 answers of each list go at once"
    )
    assert not [k for k in await cluster.metrics() if k.startswith("sun_ejections_total")]
    # the aborts of what was refused take descriptors, too
    await cluster.settled()
    await cluster.exact()
    await cluster.settled()
