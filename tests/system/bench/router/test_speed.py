"""The router's benchmark: its client counts right, and all of it runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sun_sglang.bench.router import peers
from sun_sglang.bench.router.load_client import LoadError, closed_loop, connect, paced_load, request_bytes
from sun_sglang.bench.router.speed import UNITS, Plan, measure_speed
from tests.support.ports import PORTS


async def test_the_client_counts_every_event() -> None:
    port = next(PORTS)
    with peers.running_worker("decode", port):
        (connection,) = await connect(port, 1)
        for tokens in (2, 7, 50):
            before = connection.events
            await connection.send(request_bytes(tokens, period_us=100, stream=True))
            assert connection.events - before == tokens
        connection.close()
        assert (await closed_loop(port, connections=2, seconds=0.1)).number > 0
        assert len(await paced_load(port, rate=100, seconds=0.1)) == 10


async def test_a_request_that_fails_ends_the_run() -> None:
    port = next(PORTS)
    with peers.running_worker("decode", port):
        (connection,) = await connect(port, 1)
        with pytest.raises(LoadError):
            await connection.send(b"POST /generate HTTP/1.1\r\nContent-Length: 1\r\n\r\n{")
        connection.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_every_figure_of_a_balancer(processes: int) -> None:
    plan = Plan(connections=2, streams=4, steady=200, most=1000, rate=50, seconds=0.3)
    run = measure_speed("sun", peers.sun_router(processes), plan)
    # what CPU it cost is not among them: in so short a run it may be less than one tick of the clock
    assert min(run["requests_per_s"], run["chunks_per_s"], run["steady_chunks_per_s"], run["memory_mib"]) > 0, run
    assert all(math.isfinite(value) for value in run.values()), run
    assert set(run) == set(UNITS)


def test_a_balancer_that_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(peers.PeerError, match="rust"), peers.running_balancer("rust", [["false"]], 9, tmp_path):
        pass
