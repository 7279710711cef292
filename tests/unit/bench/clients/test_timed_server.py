"""The timed server: an answer has the wanted number of tokens, each counted in its event."""

from __future__ import annotations

import orjson
from aiohttp.test_utils import TestClient, TestServer

from sun_sglang.bench.clients.timed_server import TimedServer


async def test_timed_server_sends_the_wanted_tokens_and_notes_how_late_each_was() -> None:
    server = TimedServer(ttft=0.0, itl=0.0)
    async with TestClient(TestServer(server.application())) as client:
        for wanted in (3, 1, 5):
            reply = await client.post("/v1/completions", json={"max_tokens": wanted, "stream": True})
            *events, done = [line for line in (await reply.text()).split("\n\n") if line]
            found = [orjson.loads(event.removeprefix("data: ")) for event in events]
            assert done == "data: [DONE]"
            assert [event["usage"]["completion_tokens"] for event in found] == list(range(1, wanted + 1))
            assert [event["choices"][0]["finish_reason"] for event in found] == [None] * (wanted - 1) + ["length"]
    assert len(server.late_by) == 9
    assert min(server.late_by) >= 0
