"""The client of a router's API, before a router that does not answer."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from sun_sglang.errors import LaunchError
from sun_sglang.launch.router_client import RouterClient


async def test_change_without_an_answer_is_an_error_that_names_the_call_and_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the router's limit for a trial is as long as the default of `sun task --timeout`: its answer comes first
    monkeypatch.setattr("sun_sglang.launch.router_client._CHANGE_TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with RouterClient(url) as client:
        with pytest.raises(LaunchError, match=r"did not answer PUT /tasks/sql within 0\.06 s; its log tells why"):
            await client.change_task("sql", {"weight": 2.0}, 0.01)
    for writer in held:
        writer.close()
    server.close()
