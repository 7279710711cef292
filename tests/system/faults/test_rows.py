"""Every row of the fault table, on emulated workers behind the router, as processes that are really killed and stopped.

No test measures seconds: a deadline that must not end a wait is ten minutes here, and the test ends long before. Where
an event must occur during some work, an emulated worker holds that work until the event. The exact requests to each
worker, and every variant of a row, are tested over fake workers in `tests/unit/router/dispatch/test_faults.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from tests.system.faults.cluster import NEVER_S, PATIENCE_S, PROMPT, Cluster
from tests.system.faults.conftest import Start

STREAMS = pytest.mark.parametrize("stream", [False, True])
SMALL = {"math": 1, "tool": 1, "base": 1}


@STREAMS
async def test_fault_01_prefill_refuses_the_connection(start: Start, stream: bool) -> None:
    # probes are far apart, so the router learns of it from the request itself
    cluster = await start({"math": 2, "base": 1}, router={"probe_interval": NEVER_S})
    cluster.kill("math-0")
    for _ in range(2):
        await cluster.exact(stream=stream)
    assert await cluster.is_state("math-0", "absent")
    metrics = await cluster.metrics()
    assert metrics['sun_retries_total{leg="prefill",task="math"}'] == 1
    await cluster.settled()


async def test_fault_02_prefill_killed_during_prefill(start: Start) -> None:
    cluster = await start({"math": 2, "tool": 1, "base": 1}, costs={"prefill": 0.2})
    await cluster.fault("math-0", "die_in_prefill")
    bodies = [cluster.body(stream=i % 2 > 0, prompt=[i + 1, 2]) for i in range(6)]
    outcomes = await asyncio.gather(*(outcome(cluster, body) for body in bodies))
    assert cluster["math-0"].process.wait(PATIENCE_S) != 0
    assert set(outcomes) == {"ok", "worker_died"}, "those on the other worker are answered"
    assert await cluster.counted("sun_retries_total") == 0
    await cluster.exact()
    await cluster.exact("tool")
    await cluster.settled()


@pytest.mark.invariant("I5")
@STREAMS
async def test_fault_02_request_that_kills_its_prefill_worker_kills_one(start: Start, stream: bool) -> None:
    cluster = await start({"math": 2, "tool": 1, "base": 1}, router={"probe_interval": NEVER_S})
    for name in ("math-0", "math-1"):
        await cluster.fault(name, "die_in_prefill", spare="")
    assert (await cluster.refused(502, stream=stream))["code"] == "worker_died"
    left = await survivor(cluster, "math-0", "math-1")
    await cluster.fault(left, "clear")
    await cluster.exact()
    await cluster.settled()


async def survivor(cluster: Cluster, *names: str) -> str:
    """Wait until one of two workers has ended; the name of the other."""

    async def one_ended() -> bool:
        return not all(cluster[name].alive for name in names)

    await wait_until(one_ended)
    (left,) = [name for name in names if cluster[name].alive]
    return left


async def outcome(cluster: Cluster, body: Any) -> str:
    """Return `ok` for the right answer, else the code of the error."""
    right = cluster.expected(body["model"], body["input_ids"], body["sampling_params"]["max_new_tokens"])
    async with cluster.client.post("/generate", json=body) as reply:
        raw = (await reply.read()).decode()
    if reply.status != 200:
        return str(json.loads(raw)["error"]["code"])
    if body.get("stream"):
        *_, raw, end = [line.removeprefix("data: ") for line in raw.split("\n\n") if line]
        assert end == "[DONE]"
    assert json.loads(raw)["output_ids"] == right
    return "ok"


async def test_fault_02_prefill_killed_during_a_transfer(start: Start) -> None:
    cluster = await start(
        {"math": 1, "tool": 1, "base": 1}, costs={"transfer": 0.01}, router={"probe_interval": NEVER_S}
    )
    await cluster.fault("math-0", "slow", factor=1e6, spare="")
    other = asyncio.create_task(cluster.exact("tool", tokens=3))
    asked = asyncio.create_task(cluster.refused(502, 503))
    await wait_until(lambda: cluster.queued("math-0", "prefill_inflight"))
    await wait_until(lambda: cluster.queued("base-0", "decode_transfer"))
    cluster.kill("math-0")
    await asked
    await other
    # the decode worker's own heartbeat reports nothing yet: the router aborted its leg
    await wait_until(lambda: cluster.at_rest("base-0"))
    await cluster.settled()


async def test_fault_03_prefill_answers_4xx(start: Start) -> None:
    cluster = await start(SMALL)
    await cluster.fault("math-0", "status", status=422)
    status, _, _ = await cluster.post(cluster.body())
    assert status == 422
    await wait_until(lambda: cluster.at_rest("base-0"))
    await cluster.exact("tool")
    await cluster.settled()


@STREAMS
@pytest.mark.parametrize("kind", ["status", "abort"])
async def test_fault_04_prefill_answers_5xx_or_an_abort_inside_a_200(start: Start, stream: bool, kind: str) -> None:
    cluster = await start({"math": 2, "tool": 1, "base": 1})
    await cluster.fault("math-0", kind)
    for _ in range(3):
        await cluster.exact(stream=stream)
    await cluster.fault("math-1", kind)
    error = await cluster.refused(502, stream=stream)
    assert error["code"] == "prefill_failed"
    await cluster.exact("tool")
    await cluster.settled()


@STREAMS
async def test_fault_05_prefill_hangs(start: Start, stream: bool) -> None:
    cluster = await start(SMALL, router={"first_token_timeout": 5.0, "probe_interval": NEVER_S})
    cluster["math-0"].pause()
    error = await cluster.refused(504, stream=stream)
    assert error["code"] == "first_token_timeout"
    assert await cluster.is_state("math-0", "absent")
    await cluster.exact("tool")
    cluster["math-0"].resume()
    await cluster.settled()


@STREAMS
async def test_fault_06_decode_refuses_the_connection(start: Start, stream: bool) -> None:
    cluster = await start({"math": 1, "base": 2}, router={"probe_interval": NEVER_S})
    cluster.kill("base-0")
    for _ in range(2):
        await cluster.exact(stream=stream)
    assert await cluster.is_state("base-0", "absent")
    metrics = await cluster.metrics()
    assert metrics['sun_retries_total{leg="decode",task="math"}'] == 1
    await cluster.settled()


@pytest.mark.parametrize("failover", [True, False])
async def test_fault_07_decode_dies_before_the_first_byte(start: Start, failover: bool) -> None:
    cluster = await start({"math": 1, "tool": 1, "base": 2}, failover=failover)
    await cluster.fault("base-0", "die_at_token", token=1)
    bodies = [cluster.body(task, stream=stream) for task in ("math", "tool") * 2 for stream in (True, False)]
    outcomes = await asyncio.gather(*(outcome(cluster, body) for body in bodies))
    assert cluster["base-0"].process.wait(PATIENCE_S) != 0
    # without failover those on the other worker are answered
    assert set(outcomes) == ({"ok"} if failover else {"ok", "worker_died"})
    await cluster.settled()


@pytest.mark.invariant("I5")
@STREAMS
async def test_fault_07_request_that_kills_its_decode_worker_kills_one(start: Start, stream: bool) -> None:
    cluster = await start({"math": 1, "base": 2}, router={"probe_interval": NEVER_S}, failover=False)
    for name in ("base-0", "base-1"):
        await cluster.fault(name, "die_at_token", token=1)
    assert (await cluster.refused(502, stream=stream))["code"] == "worker_died"
    left = await survivor(cluster, "base-0", "base-1")
    await cluster.fault(left, "clear")
    await cluster.exact(stream=stream)
    await cluster.settled()


@pytest.mark.invariant("I6")
async def test_fault_08_decode_dies_mid_stream(start: Start) -> None:
    cluster = await start({"math": 1, "base": 1}, costs={"decode_step": 0.02})
    await cluster.fault("base-0", "die_at_token", token=3)
    for path, body in {
        "/generate": cluster.body(tokens=9),
        "/v1/completions": {"model": "math", "prompt": "hello", "max_tokens": 9},
    }.items():
        before = await cluster.incarnation("base-0")
        events = await cluster.events(body, path)
        assert "[DONE]" not in events
        assert events[-1]["error"]["message"]
        cluster["base-0"].process.wait(PATIENCE_S)
        cluster["base-0"].start()
        await cluster.replaced("base-0", before)
        await cluster.ready()
        await cluster.fault("base-0", "die_at_token", token=3)
    await cluster.settled()


@pytest.mark.invariant("I25")
@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_fault_08_streams_of_a_decode_worker_that_is_gone_go_on(start: Start, how: str) -> None:
    cluster = await start({"math": 1, "tool": 1, "base": 2})
    text = {"prompt": "hello", "max_tokens": 9}
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    asked: list[tuple[str, dict[str, Any]]] = [
        (path, {"model": task, **body})
        for task in ("math", "tool")
        for path, body in (
            ("/generate", cluster.body(tokens=9)),
            ("/v1/completions", text),
            ("/v1/completions", {**text, "n": 2}),
            ("/v1/chat/completions", chat),
        )
    ]
    unbroken = [written(await cluster.events(body, path)) for path, body in asked]
    for name in ("base-0", "base-1"):
        await cluster.fault(name, "hold", token=4)
    streams = [asyncio.create_task(cluster.events(body, path)) for path, body in asked]
    await wait_until(lambda: cluster.running("base-0", 5))
    await wait_until(lambda: cluster.running("base-1", 5))
    if how == "kill":
        cluster.kill("base-0")
    else:
        cluster["base-0"].pause()
    await cluster.fault("base-1", "clear")
    assert [written(await stream) for stream in streams] == unbroken
    assert await cluster.counted("sun_replays_total") == 5
    if how == "pause":
        cluster["base-0"].end()
    await cluster.settled()


def written(events: list[Any]) -> Any:
    """Return the text of each answer of a stream, by its index."""
    assert events[-1] == "[DONE]", events[-1]
    texts: dict[int, str] = {}
    for event in events[:-1]:
        if "text" in event:
            texts[0] = event["text"]
        for choice in event.get("choices", ()):
            text = choice.get("delta", choice).get("content", choice.get("text")) or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + text
    return texts


async def test_fault_09_a_closed_bootstrap_port(start: Start) -> None:
    # it is the decode worker's heartbeat that finds it
    cluster = await start({"math": 2, "tool": 1, "base": 1}, flags={"base": {"sim_heartbeat_interval": 1}})
    await cluster.fault("math-0", "close_bootstrap", spare="")
    # the other worker serves the requests that reached it
    await asyncio.gather(*(cluster.exact(prompt=[i + 1]) for i in range(4)), cluster.exact("tool"))
    await wait_until(lambda: is_not_ready(cluster, "math-0"))
    retries = await cluster.counted("sun_retries_total")
    for _ in range(2):
        await cluster.exact()
    await cluster.exact("tool")
    assert await cluster.counted("sun_retries_total") == retries, "nobody meets it any more"
    await cluster.settled()


async def test_fault_09_a_bootstrap_port_that_never_opened(start: Start) -> None:
    fault = {"sim_fault": json.dumps({"kind": "close_bootstrap"})}
    cluster = await start({"math": 2, "tool": 1, "base": 1}, flags={"math-0": fault}, wait=False)

    async def a_canary_failed() -> bool:
        return await cluster.counted('sun_canaries_total{decode_pool="base",outcome="failed"') > 0

    await wait_until(lambda: both_ready(cluster, "math-1", "tool-0"))
    await wait_until(a_canary_failed)
    await cluster.read_weights()
    for _ in range(2):
        await cluster.exact()
    assert await cluster.counted("sun_retries_total") == 0
    assert await cluster.is_state("math-0", "registering")


async def is_not_ready(cluster: Cluster, name: str) -> bool:
    return not await cluster.is_state(name, "ready")


async def both_ready(cluster: Cluster, *names: str) -> bool:
    states = await cluster.states()
    return all(states.get(name, ("", ""))[0] == "ready" for name in names)


async def test_fault_10_a_black_holed_prefill_host(start: Start) -> None:
    cluster = await start(SMALL)
    # packets to it get lost: the kernel accepts connections, and no process answers
    cluster["math-0"].pause()
    # no bootstrap of it is looked up any more: a decode worker that restarts meets it as a stranger
    await wait_until(lambda: is_not_ready(cluster, "math-0"))
    before = await cluster.incarnation("base-0")
    cluster.kill("base-0")
    cluster["base-0"].start()
    await cluster.replaced("base-0", before)
    await wait_until(lambda: both_ready(cluster, "tool-0", "base-0"))
    for _ in range(3):
        await cluster.exact("tool")
        await cluster.refused(503)
        assert await cluster.at_rest("base-0")
    cluster["math-0"].resume()
    await cluster.ready()
    await cluster.settled()


async def test_fault_11_prefill_restarts_fast(start: Start) -> None:
    cluster = await start(SMALL)
    before = await cluster.incarnation("math-0")
    cluster.kill("math-0")
    cluster["math-0"].start()
    await cluster.replaced("math-0", before)
    await wait_until(cluster.healthy)
    await cluster.exact()
    await cluster.settled()


@pytest.mark.invariant("I11")
async def test_fault_12_decode_restarts_and_is_back_only_after_a_canary(start: Start) -> None:
    cluster = await start(SMALL)
    before = await cluster.incarnation("base-0")
    cluster.kill("base-0")
    cluster["base-0"].flags["sim_fault"] = json.dumps({"kind": "status", "status": 500})
    cluster["base-0"].start()
    await cluster.replaced("base-0", before)
    assert await cluster.is_state("base-0", "registering")
    await cluster.refused(503)
    await cluster.fault("base-0", "clear")
    await cluster.ready()
    await cluster.exact()
    await cluster.settled()


@STREAMS
async def test_fault_13_client_leaves_before_the_first_token(start: Start, stream: bool) -> None:
    cluster = await start(SMALL, costs={"transfer": 0.01})
    await cluster.fault("math-0", "slow", factor=1e6, spare="")
    asked = asyncio.create_task(cluster.post({**cluster.body(), "stream": stream}))
    await wait_until(lambda: cluster.queued("math-0", "prefill_inflight"))
    await wait_until(lambda: cluster.queued("base-0", "decode_transfer"))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await wait_until(lambda: cluster.at_rest("math-0"))
    await wait_until(lambda: cluster.at_rest("base-0"))
    await cluster.exact("tool")
    await cluster.settled()


async def test_fault_14_client_leaves_mid_stream(start: Start) -> None:
    cluster = await start(SMALL)
    await cluster.fault("base-0", "hold", token=2)
    async with cluster.client.post("/generate", json=cluster.body(tokens=9, stream=True)) as reply:
        await reply.content.readuntil(b"\n\n")
        assert await cluster.has_work("base-0")
        reply.close()
    await wait_until(lambda: cluster.at_rest("base-0"))
    await cluster.fault("base-0", "clear")
    await cluster.exact("tool")
    await cluster.settled()
    assert (await cluster.metrics())['sun_requests_total{outcome="disconnected",task="math"}'] == 1


RESERVED = {
    "bootstrap_host": "2.2.2.2",
    "bootstrap_port": 1,
    "bootstrap_room": [1],
    "disagg_prefill_dp_rank": 0,
    "data_parallel_rank": 0,
    "routed_dp_rank": 0,
    "lora_path": "x",
    "session_params": {"id": "x"},
    "kv_hints": {"x": 1},
}


@pytest.mark.invariant("I15")
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_fault_15_reserved_fields_never_reach_a_worker(start: Start, path: str) -> None:
    cluster = await start({"math": 1, "base": 1})
    body = {"model": "math", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "text": "x"}
    legs = await cluster.counted("sun_leg_requests_total")
    for name, value in RESERVED.items():
        status, reply, _ = await cluster.post({**body, name: value}, path)
        assert (status, reply["error"]["param"]) == (400, name)
    assert await cluster.counted("sun_leg_requests_total") == legs
    await cluster.exact()


@pytest.mark.invariant("I7")
async def test_fault_16_no_cache_hit_crosses_tasks(start: Start) -> None:
    cluster = await start(SMALL)
    prompt = list(range(1, 65))

    async def cached(task: str, **key: str) -> int:
        status, reply, _ = await cluster.post(cluster.body(task, prompt=prompt, **key))
        assert status == 200, reply
        assert reply["output_ids"] == cluster.expected(task, prompt, 4)
        hit: int = reply["meta_info"]["cached_tokens"]
        return hit

    assert await cached("math") == 0
    assert await cached("math") > 0
    async with cluster.client.get("/tasks") as reply:
        namespace = (await reply.json())["tasks"]["math"]["namespace"]
    for key in ({"extra_key": ""}, {"extra_key": namespace}, {"cache_salt": ""}, {"cache_salt": namespace}):
        assert await cached("math", **key) in (0, len(prompt), len(prompt) - 1)
    assert await cached("tool", extra_key=namespace) == 0
    assert await cached("tool", cache_salt=namespace) == 0
    assert await cached("tool") == 0
    await cluster.settled()


@STREAMS
async def test_fault_17_an_abort_reaches_exactly_its_request(start: Start, stream: bool) -> None:
    cluster = await start({"math": 1, "base": 1})
    await cluster.fault("base-0", "hold", token=5)
    right = cluster.expected("math", PROMPT, 60)
    body = cluster.body(tokens=60, stream=stream)

    async def ask(rid: str) -> Any:
        if stream:
            return (await cluster.events({**body, "rid": rid}))[-2]
        return (await cluster.post({**body, "rid": rid}))[1]

    asked = {rid: asyncio.create_task(ask(rid)) for rid in ("a", "ab")}
    await wait_until(lambda: cluster.running("base-0", 2))
    async with cluster.client.post("/abort_request", json={"rid": "a"}) as reply:
        assert reply.status == 200
    first = await asked["a"]
    assert first["meta_info"]["finish_reason"]["type"] == "abort"
    assert first["meta_info"]["id"] == "a"
    assert len(first["output_ids"]) <= 5
    await cluster.fault("base-0", "clear")
    assert (await asked["ab"])["output_ids"] == right
    await cluster.settled()
    metrics = await cluster.metrics()
    assert [metrics[f'sun_requests_total{{outcome="{o}",task="math"}}'] for o in ("aborted", "ok")] == [1, 1]


async def test_fault_18_n_and_lists_come_back_whole(start: Start) -> None:
    cluster = await start({"math": 2, "base": 2})
    status, reply, _ = await cluster.post(
        {"model": "math", "prompt": [[1, 2], [3, 4, 5]], "n": 3, "max_tokens": 4}, "/v1/completions"
    )
    assert status == 200, reply
    assert [c["index"] for c in reply["choices"]] == list(range(6))
    texts = [c["text"] for c in reply["choices"]]
    assert len(set(texts[:3])) == len(set(texts[3:])) == 1
    assert texts[0] != texts[3]
    body = {"model": "math", "input_ids": [[i + 1, 2] for i in range(8)], "sampling_params": {"max_new_tokens": 3}}
    status, reply, _ = await cluster.post(body)
    assert [r["output_ids"] for r in reply] == [cluster.expected("math", ids, 3) for ids in body["input_ids"]]
    await cluster.settled()


async def test_fault_19_too_long_a_prompt_is_refused_before_dispatch(start: Start) -> None:
    cluster = await start({"math": 1, "base": 1}, flags={"math": {"context_length": 128}})
    legs = await cluster.counted("sun_leg_requests_total")
    for path, body in (
        ("/generate", {"input_ids": [1] * 200}),
        ("/generate", {"text": "word " * 400}),
        ("/v1/completions", {"prompt": [[1], [1] * 200]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 400}]}),
    ):
        status, reply, _ = await cluster.post({"model": "math", **body}, path)
        assert status == 400, reply
        assert "at most 121" in reply["error"]["message"]
    assert await cluster.counted("sun_leg_requests_total") == legs
    await cluster.exact()


BAD = {
    "not json": b"{",
    "not an object": b"[]",
    "not text": b"\xff\xfe",
    "deep": b"[" * 10_000,
    "no prompt": b'{"model":"math"}',
    "wrong type": b'{"model":"math","text":3}',
    "a token that is none": b'{"model":"math","input_ids":["x"]}',
    "token out of range": b'{"model":"math","input_ids":[50000]}',
    "negative token": b'{"model":"math","input_ids":[-1]}',
    "top_logprobs": b'{"model":"math","text":"x","return_logprob":true,"top_logprobs_num":129}',
    "temperature": b'{"model":"math","text":"x","sampling_params":{"temperature":"hot"}}',
    "stream": b'{"model":"math","text":"x","stream":"yes"}',
}


async def test_fault_20_bad_requests_leave_every_worker_alive(start: Start) -> None:
    cluster = await start(SMALL)
    legs = await cluster.counted("sun_leg_requests_total")
    json_type = {"Content-Type": "application/json"}
    for what, bad in BAD.items():
        async with cluster.client.post("/generate", data=bad, headers=json_type) as reply:
            assert reply.status == 400, what
            assert (await reply.json())["error"]["message"], what
    huge = b'{"model":"math","text":"' + b"x" * (100 << 20) + b'"}'
    status = await send_huge(cluster, huge)
    assert status == 413
    assert await cluster.counted("sun_leg_requests_total") == legs
    for worker in cluster.workers.values():
        assert worker.alive
    await cluster.exact()
    await cluster.exact("tool")
    await cluster.settled()


async def send_huge(cluster: Cluster, body: bytes) -> int:
    """Return the status of a body that is refused while it is still sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode())
    sending = asyncio.create_task(_send(writer, body))
    status = int((await reader.readline()).split()[1])
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.transport.abort()
    return status


async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    for i in range(0, len(body), 1 << 20):
        writer.write(body[i : i + (1 << 20)])
        await writer.drain()


@pytest.mark.invariant("I12")
@pytest.mark.parametrize(
    ("field", "flags"),
    [
        ("page_size", {"page_size": 64}),
        ("kv_cache_dtype", {"kv_cache_dtype": "fp8_e5m2"}),
        ("kv_dtype", {"dtype": "float16"}),
        ("architecture", {"sim_architecture": "Qwen3ForCausalLM"}),
        ("tp_size", {"tp_size": 2}),
        ("num_layers", {"sim_num_layers": 7}),
        ("sglang", {"sim_sglang": "0.5.21"}),
    ],
)
async def test_fault_21_members_that_differ_are_refused_with_the_difference_named(
    start: Start, field: str, flags: dict[str, Any]
) -> None:
    cluster = await start(
        {"math": 2, "base": 1}, flags={"math": {"page_size": 1}, "base": {"page_size": 1}, "math-1": flags}, wait=False
    )

    async def refused() -> bool:
        return any(state == "refused" for state, _ in (await cluster.states()).values())

    await wait_until(refused)
    reasons = [reason for state, reason in (await cluster.states()).values() if state == "refused"]
    # both values, each with whose it is
    told = re.compile(rf"{field} differs from `\w+-\d`'s \((\w+-\d): ([\w.]+), (\w+-\d): (?!\2\))[\w.]+\)(; .+)?")
    assert all(told.fullmatch(reason) for reason in reasons), reasons
    assert all(w.alive for w in cluster.workers.values())


async def test_fault_21_a_tokenizer_that_differs(start: Start, write_checkpoint: Callable[..., Path]) -> None:
    own = write_checkpoint("own")
    other = write_checkpoint("other", tokenizer="other words")
    flags = {"math-0": {"model_path": own}, "base-0": {"model_path": other}}
    cluster = await start({"math": 1, "base": 1}, flags=flags, wait=False)

    async def refused() -> bool:
        return any("tokenizer differs" in reason for _, reason in (await cluster.states()).values())

    await wait_until(refused)


async def test_fault_22_a_full_decode_cache_loses_nothing(start: Start) -> None:
    cluster = await start(
        {"math": 1, "tool": 1, "base": 1}, costs={"decode_step": 0.005}, flags={"base-0": {"max_total_tokens": 1200}}
    )
    await asyncio.gather(
        *(
            cluster.exact(task, prompt=[i + 1] * 200, tokens=40, stream=i % 2 > 0)
            for i in range(8)
            for task in ("math", "tool")
        )
    )
    await cluster.settled()


async def test_fault_22_what_a_full_decode_cache_cannot_take_in_time_is_refused(start: Start) -> None:
    cluster = await start(
        {"math": 1, "base": 1},
        flags={"base-0": {"max_total_tokens": 1400}},
        router={"max_tokens": 1200, "queue_timeout": 0.5},
    )
    # two requests fill the cache for longer than the others may wait
    await cluster.fault("base-0", "hold", token=2)
    first = asyncio.gather(*(cluster.exact(tokens=100, prompt=[i] * 400) for i in (1, 2)))
    await wait_until(lambda: cluster.has_work("base-0"))
    outcomes = await asyncio.gather(*(cluster.post(cluster.body(prompt=[i] * 400)) for i in (3, 4, 5)))
    assert not first.done()
    for status, reply, headers in outcomes:
        assert status in (429, 503), reply
        assert int(headers["Retry-After"]) >= 1
    await cluster.fault("base-0", "clear")
    await first
    await cluster.exact()
    await cluster.settled()


@pytest.mark.invariant("I19")
async def test_fault_23_a_task_that_floods_leaves_the_others_their_share(start: Start) -> None:
    cluster = await start(SMALL, router={"max_requests": 4, "log_requests": True})
    await cluster.fault("base-0", "hold", token=2)
    flood = [asyncio.create_task(cluster.exact(tokens=40, prompt=[i + 1] * 50)) for i in range(60)]
    await wait_until(lambda: queued(cluster, "math", 56))
    quiet = [asyncio.create_task(cluster.exact("tool", tokens=2)) for _ in range(3)]
    await wait_until(lambda: queued(cluster, "tool", 3))
    await cluster.fault("base-0", "clear")
    await asyncio.gather(*flood, *quiet)
    ended = [e["task"] for e in map(json.loads, cluster.log.splitlines()) if e["event"] == "request"]
    last = len(ended) - ended[::-1].index("tool")
    # first come, first served would have been through with nearly all of the flood before the first of these
    assert last < len(flood) / 2
    await cluster.settled()


async def queued(cluster: Cluster, task: str, count: int) -> bool:
    return (await cluster.metrics()).get(f'sun_queued{{task="{task}"}}') == count


@pytest.mark.invariant("I7")
async def test_fault_24_a_task_whose_weights_change_gets_a_new_namespace(start: Start) -> None:
    cluster = await start(SMALL)
    prompt = list(range(1, 65))
    for _ in range(2):
        await cluster.exact(prompt=prompt)
    before = cluster.expected("math", prompt, 4)
    process = await cluster.incarnation("math-0")
    cluster.kill("math-0")
    cluster["math-0"].flags["revision"] = "r2"
    cluster["math-0"].start()
    await cluster.replaced("math-0", process)
    await cluster.ready()
    await cluster.read_weights()
    assert cluster.expected("math", prompt, 4) != before
    status, reply, _ = await cluster.post(cluster.body(prompt=prompt))
    assert (status, reply["meta_info"]["cached_tokens"]) == (200, 0)
    assert reply["output_ids"] == cluster.expected("math", prompt, 4)
    await cluster.settled()


@STREAMS
async def test_fault_25_every_decode_worker_is_down(start: Start, stream: bool) -> None:
    cluster = await start({"math": 1, "base": 2})
    for name in ("base-0", "base-1"):
        cluster.kill(name)
        # else the request may use an idle connection whose end the router has not read: a worker died under it (502)
        await wait_until(lambda name=name: cluster.is_state(name, "absent"))
    status, _, headers = await cluster.post(cluster.body(stream=stream))
    assert status == 503
    assert int(headers["Retry-After"]) >= 1
    cluster["base-1"].start()
    await wait_until(cluster.healthy)
    await cluster.exact(stream=stream)


async def test_fault_26_sigterm_to_the_router_lets_requests_end(start: Start) -> None:
    cluster = await start({"math": 1, "base": 1}, router={"drain_timeout": NEVER_S})
    await cluster.fault("base-0", "hold", token=2)
    asked = [asyncio.create_task(cluster.exact(tokens=60, stream=s)) for s in (False, True)]
    await wait_until(lambda: cluster.running("base-0", 2))
    cluster.router.send_signal(signal.SIGTERM)
    await wait_until(lambda: logged(cluster, "draining"))
    await cluster.fault("base-0", "clear")
    await asyncio.gather(*asked)
    assert await asyncio.to_thread(cluster.router.wait, PATIENCE_S) == 0
    await wait_until(lambda: cluster.at_rest("base-0"))


async def logged(cluster: Cluster, event: str) -> bool:
    # the last line may not be whole yet
    lines = cluster.log.split("\n")[:-1]
    return any(json.loads(line)["event"] == event for line in lines)


async def test_fault_26_the_routers_deadline_ends_the_rest_with_an_error(start: Start) -> None:
    cluster = await start({"math": 1, "base": 1}, router={"drain_timeout": 0.2})
    await cluster.fault("base-0", "hold", token=2)
    whole = asyncio.create_task(cluster.post(cluster.body(tokens=9)))
    async with cluster.client.post("/generate", json=cluster.body(tokens=9, stream=True)) as stream:
        await stream.content.readuntil(b"\n\n")
        await wait_until(lambda: cluster.running("base-0", 2))
        cluster.router.send_signal(signal.SIGTERM)
        status, reply, _ = await whole
        *_, last, end = (await stream.text()).split("\n\n")
    assert status == 502
    assert "shutting down" in reply["error"]["message"]
    assert end == ""
    assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert await asyncio.to_thread(cluster.router.wait, PATIENCE_S) == 0
    await wait_until(lambda: cluster.at_rest("base-0"))


async def test_fault_26_sigterm_to_a_worker_lets_requests_end(start: Start) -> None:
    cluster = await start({"math": 1, "base": 2})
    for name in ("base-0", "base-1"):
        await cluster.fault(name, "hold", token=2)
    asked = [asyncio.create_task(cluster.exact(tokens=60, stream=s)) for s in (False, True) * 2]
    for name in ("base-0", "base-1"):
        await wait_until(lambda name=name: cluster.running(name, 2))
    cluster["base-0"].process.send_signal(signal.SIGTERM)
    await wait_until(lambda: cluster.is_state("base-0", "draining"))
    await cluster.fault("base-1", "clear")
    # one that were sent to the other would not come back
    for _ in range(3):
        await asyncio.gather(*(cluster.exact(tokens=20) for _ in range(4)))
    assert cluster["base-0"].alive
    await cluster.fault("base-0", "clear")
    await asyncio.gather(*asked)
    assert await asyncio.to_thread(cluster["base-0"].process.wait, PATIENCE_S) == 0
    await cluster.exact()
    await cluster.settled()


async def test_fault_27_a_router_that_is_killed_comes_back(start: Start) -> None:
    cluster = await start({"math": 1, "base": 1})
    await cluster.fault("base-0", "hold", token=2)
    asked = [asyncio.create_task(cluster.post(cluster.body(tokens=9, stream=s))) for s in (False, True)]
    await wait_until(lambda: cluster.running("base-0", 2))
    cluster.router.kill()
    cluster.router.wait(PATIENCE_S)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(o, aiohttp.ClientError) for o in outcomes)
    # a stream is seen to have lost its client at once, anything else when SGLang next polls for it
    await wait_until(lambda: cluster.at_rest("base-0"))
    await cluster.fault("base-0", "clear")
    cluster.start_router()
    await cluster.ready()
    await cluster.exact()
    await cluster.settled()


async def test_fault_29_a_router_that_was_paused_blames_nobody(start: Start) -> None:
    """A stream, a request without its first token and one in the queue outlive a pause longer than their deadlines."""
    limit = 4.0
    limits = dict.fromkeys(("idle_timeout", "first_token_timeout", "queue_timeout"), limit)
    cluster = await start(
        {"math": 1, "tool": 1, "base": 1, "other": 1},
        tasks={"math": ("math", "base"), "tool": ("tool", "other")},
        router={**limits, "max_requests": 2},
    )
    await cluster.fault("base-0", "hold", token=2)
    await cluster.fault("other-0", "hold", token=0)
    asked = [asyncio.create_task(cluster.exact("math", stream=True))]
    await wait_until(lambda: cluster.running("base-0", 1))
    asked.append(asyncio.create_task(cluster.exact("tool", stream=True)))
    await wait_until(lambda: cluster.has_work("other-0"))
    asked.append(asyncio.create_task(cluster.exact("math")))
    await wait_until(lambda: queued(cluster, "math", 1))
    await asyncio.to_thread(cluster.router.pause, PATIENCE_S)
    # the pause itself
    await asyncio.sleep(2.5 * limit)
    for name in ("base-0", "other-0"):
        await cluster.fault(name, "clear")
    cluster.router.send_signal(signal.SIGCONT)
    await asyncio.gather(*asked)
    assert await cluster.counted("sun_ejections_total") == 0
    assert await cluster.counted("sun_retries_total") == 0
    assert await logged(cluster, "paused")
    await cluster.settled()


@pytest.mark.invariant("I12")
async def test_fault_28_a_hook_that_did_not_take(start: Start) -> None:
    cluster = await start({"math": 1, "tool": 1, "base": 2})
    await cluster.fault("base-0", "unhooked", spare="")
    await wait_until(lambda: cluster.is_state("base-0", "refused"))
    _, reason = (await cluster.states())["base-0"]
    assert reason == "hook `emulated` on sun_sglang.emulator is missing: made to fail"
    for _ in range(3):
        await cluster.exact()
        await cluster.exact("tool", stream=True)
    await cluster.fault("base-1", "unhooked", spare="")
    await wait_until(lambda: cluster.is_state("base-1", "refused"))
    error = await cluster.refused(503)
    assert error["code"] == "no_worker"
    # one that never had them gets no canary either
    cluster.kill("base-0")
    cluster["base-0"].flags["sim_fault"] = json.dumps({"kind": "unhooked"})
    before = await cluster.incarnation("base-0")
    canaries = await cluster.counted("sun_canaries_total")
    cluster["base-0"].start()
    await cluster.replaced("base-0", before)
    assert await cluster.is_state("base-0", "refused")
    assert await cluster.counted("sun_canaries_total") == canaries
    await cluster.fault("base-0", "clear")
    await wait_until(cluster.healthy)
    await cluster.exact()
    await cluster.settled()
