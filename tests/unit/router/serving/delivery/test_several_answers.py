"""Requests for several answers, and their faults."""

from __future__ import annotations

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import System
from tests.unit.router.fake_worker import Fault, expected


async def test_fault_14_client_leaves_a_stream_of_several(small: System) -> None:
    small["base-0"].fault = Fault(hang_after=2)
    body = {"model": "math", "prompt": ["a", "b"], "n": 2, "stream": True}
    async with small.client.post("/v1/completions", json=body) as r:
        await r.content.readuntil(b"\n\n")
        r.close()
    await wait_until(lambda: len({a["rid"] for a in small["base-0"].aborts}) == 4)
    await small.quiet()


@pytest.mark.invariant("I4")
async def test_fault_18_n_and_lists_become_requests_with_rooms_of_their_own(sun: System) -> None:
    body = {"model": "math", "prompt": ["ab", "c"], "n": 3, "max_tokens": 2}
    status, reply = await sun.post("/v1/completions", body)
    assert status == 200
    assert [c["index"] for c in reply["choices"]] == list(range(6))
    assert [c["text"] for c in reply["choices"][:3]] == [reply["choices"][0]["text"]] * 3
    assert reply["choices"][0]["text"] != reply["choices"][3]["text"]
    assert reply["usage"]["prompt_tokens"] == 3
    assert reply["usage"]["completion_tokens"] == 12
    sent = [b for w in ("math-0", "math-1") for _, b in sun[w].requests]
    assert len({b["bootstrap_room"] for b in sent}) == len({b["rid"] for b in sent}) == 6


async def test_fault_18_generate_lists(small: System) -> None:
    body = {
        "model": "math",
        "input_ids": [[1], [2, 3]],
        "sampling_params": [{"max_new_tokens": 2}, {"max_new_tokens": 3}],
    }
    _, reply = await small.post("/generate", {**body, "rid": ["x", "y"]})
    assert [r["output_ids"] for r in reply] == [
        expected("w-math", "w-base", [1], 2),
        expected("w-math", "w-base", [2, 3], 3),
    ]
    assert [r["meta_info"]["id"] for r in reply] == ["x", "y"]
    _, reply = await small.post("/generate", {"model": "math", "text": ["a"]})
    assert isinstance(reply, list)
    assert len(reply) == 1


@pytest.mark.parametrize("usage", [False, True])
async def test_fault_18_a_stream_of_several(sun: System, usage: bool) -> None:
    body = {"model": "math", "prompt": ["ab", "c"], "n": 2, "max_tokens": 3, "stream": True}
    events = await sun.events_of("/v1/completions", {**body, "stream_options": {"include_usage": usage}})
    assert events[-1] == "[DONE]"
    texts: dict[int, str] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    _, whole = await sun.post("/v1/completions", {**body, "stream": False})
    assert texts == {c["index"]: c["text"] for c in whole["choices"]}
    assert len({e["id"] for e in events[:-1]}) == 1
    usages = [e["usage"] for e in events[:-1] if not e["choices"]]
    assert [(u["prompt_tokens"], u["completion_tokens"]) for u in usages] == ([(3, 12)] if usage else [])
    await sun.quiet()


async def test_fault_18_a_generate_stream_of_several(small: System) -> None:
    events = await small.events_of("/generate", {"model": "math", "text": ["a", "b"], "stream": True})
    assert {e["index"] for e in events[:-1]} == {0, 1}
    assert events[-1] == "[DONE]"


async def test_fault_18_one_of_several_fails(sun: System) -> None:
    for name in ("base-0", "base-1"):
        sun[name].fault = Fault(status=500)
    body = {"model": "math", "prompt": ["ab", "c"]}
    assert (await sun.post("/v1/completions", body))[0] == 502
    assert (await sun.post("/v1/completions", {**body, "stream": True}))[0] == 502
    for name in ("base-0", "base-1"):
        sun[name].fault = Fault(die_after=1)
    events = await sun.events_of("/v1/completions", {**body, "stream": True})
    assert "error" in events[-1]
    await sun.quiet()
