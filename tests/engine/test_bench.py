"""The client of `sun bench` against real SGLang: every token is counted when it arrives."""

from __future__ import annotations

import asyncio

from sun_sglang.bench.load.client.clock import RunClock
from sun_sglang.bench.load.client.endpoint import Endpoint, client_session, prepare
from sun_sglang.bench.load.client.sender import Sender
from sun_sglang.bench.load.workload.planned import Chat, PlannedRequest, Prompt
from tests.engine.conftest import Deployment

OUTPUT_TOKENS = 17
IDS = tuple(range(64, 96))


async def test_bench_client_counts_each_token_of_each_kind_of_prompt(demo: Deployment) -> None:
    prompts: list[Prompt] = [IDS, "What is 12 + 30?", Chat(({"role": "user", "content": "What is 12 + 30?"},))]
    requests = [
        PlannedRequest(number, task, None, prompt, OUTPUT_TOKENS)
        for number, (task, prompt) in enumerate((t, p) for t in ("math", "tool") for p in prompts)
    ]
    endpoint = Endpoint(demo.url, demo.headers)
    async with client_session(timeout=60) as session:
        sender = Sender(session, lambda _: endpoint, RunClock())
        records = await asyncio.gather(*(sender.send(prepare(request)) for request in requests))
        again = await sender.send(prepare(requests[0]))
    for record in (*records, again):
        assert record.failure is None
        assert record.output_tokens == sum(record.arrived) == OUTPUT_TOKENS
        assert len(record.arrivals) > 1
        assert record.prompt_tokens > 0
    assert records[0].prompt_tokens == len(IDS)
    assert again.cached_tokens
