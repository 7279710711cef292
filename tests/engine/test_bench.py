"""The client of `sun bench` against real SGLang: every token is counted when it arrives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import orjson
import yaml

from sun_sglang.bench.load.client.clock import RunClock
from sun_sglang.bench.load.client.endpoint import Endpoint, client_session, prepare
from sun_sglang.bench.load.client.sender import Sender
from sun_sglang.bench.load.workload.planned import Chat, PlannedRequest, Prompt
from sun_sglang.bench.serving.campaign.caches import equal_caches
from sun_sglang.bench.serving.systems.peer_system import PeerSystem
from sun_sglang.bench.serving.targets.target import Target
from sun_sglang.launch.places.local.process_group import group_members
from sun_sglang.launch.state import Phase, read_state
from tests.engine.conftest import Deployment
from tests.engine.test_lora import write_adapter
from tests.support.bench_campaign import settings

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
        assert len(record.arrivals) == len(record.arrived)
        assert record.prompt_tokens > 0
    assert records[0].prompt_tokens == len(IDS)
    assert again.cached_tokens


async def test_bench_client_continues_a_session_with_the_ids_of_its_answer(demo: Deployment) -> None:
    endpoint, ids = Endpoint(demo.url, demo.headers), tuple(range(100, 132))
    async with client_session(timeout=60) as session:
        sender = Sender(session, lambda _: endpoint, RunClock())
        first = await sender.send(prepare(PlannedRequest(0, "math", None, ids, OUTPUT_TOKENS, session=0)))
        answer = tuple(first.answer or ())
        prompt = (*ids, *answer, 70, 71)
        second = await sender.send(prepare(PlannedRequest(1, "math", None, prompt, OUTPUT_TOKENS, session=0)))
    assert len(answer) == OUTPUT_TOKENS == first.output_tokens
    assert second.prompt_tokens == len(prompt)
    # the answer is new to the prefill worker
    assert second.cached_tokens == len(ids)


async def text_of(session: aiohttp.ClientSession, target: Target, task: str) -> str:
    """Return the answer of a task as the benchmark asks for it, in one piece."""
    prepared = target.prepare(PlannedRequest(0, task, None, IDS, 9))
    body = {**orjson.loads(prepared.body), "stream": False, "stream_options": None}
    endpoint = target.endpoint_of(task)
    async with session.post(endpoint.url + prepared.path, json=body, headers=endpoint.headers) as reply:
        assert reply.status == 200, await reply.text()
        text: str = (await reply.json())["choices"][0]["text"]
    return text


async def test_bench_peer_is_a_plain_server_that_the_client_asks_itself(models: Path, tmp_path: Path) -> None:
    file, run_dir = tmp_path / "plain.yaml", tmp_path / "run"
    adapter = write_adapter(tmp_path / "x", models / "llama-a", seed=0)
    server = {"name": "a", "model": str(models / "llama-a"), "tasks": ["a", "x"], "adapters": {"x": str(adapter)}}
    file.write_text(yaml.safe_dump({"servers": [server], "engine": {"dtype": "float32", "max_total_tokens": 4096}}))
    system = PeerSystem(file, "plain", run_dir, {})
    try:
        target = await system.start()
        running = read_state(run_dir)
        async with client_session(timeout=60) as session:
            sender = Sender(session, target.endpoint_of, RunClock())
            first, again = [await sender.send(target.prepare(PlannedRequest(i, "a", None, IDS, 9))) for i in range(2)]
            await equal_caches(target, settings(concurrency=1), fresh=False, alone=False, number=1)
            flushed = await sender.send(target.prepare(PlannedRequest(2, "a", None, IDS, 9)))
            texts = [await text_of(session, target, task) for task in ("a", "x", "a")]
            async with session.get(f"{target.endpoint_of('a').url}/health") as reply:
                assert reply.status == 401
    finally:
        await system.stop()
    assert texts[0] == texts[2] != texts[1]
    for record in (first, again, flushed):
        assert record.failure is None
        assert record.output_tokens == sum(record.arrived) == 9
    assert again.cached_tokens
    assert not first.cached_tokens
    assert not flushed.cached_tokens
    state = read_state(run_dir)
    assert running is not None
    assert state is not None
    assert (state.phase, state.alive) == (Phase.STOPPED, False)
    # its processes are gone
    assert running.processes[0].pid
    assert not group_members(running.processes[0].pid)
