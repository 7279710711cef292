"""Tasks whose first token the decode module makes, beside tasks of the other mode on the same workers."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.first_token import read_mark
from sun_sglang.contracts.scheme import Side
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_worker import expected

PROMPT = [11, 12, 13]
# one prefill pool of a base model, two tuned decoders, and the base as a decoder beside them
TASKS = {"code": ("base", "code"), "chat": ("base", "chat"), "plain": ("base", "shared"), "sun": ("tuned", "shared")}
POOLS = {"base": 1, "tuned": 1, "code": 1, "chat": 1, "shared": 1}
CARDS: dict[str, dict[str, Any]] = {
    "code-0": {"first_token": "decode"},
    "chat-0": {"first_token": "decode"},
    "tuned-0": {"first_token": "decode", "tuned_for": "w-shared"},
}
MODES: dict[str, Side] = {"code": "decode", "chat": "decode", "plain": "prefill", "sun": "decode"}


@pytest.fixture
async def system(start: Start) -> System:
    system: System = await start(TASKS, POOLS, cards=CARDS)
    return system


def answer(task: str, prompt: list[int], length: int) -> list[int]:
    prefill, decode = (f"w-{pool}" for pool in TASKS[task])
    return expected(prefill, decode, prompt, length, first_token=MODES[task])


@pytest.mark.parametrize("stream", [False, True])
async def test_each_request_gets_its_first_token_from_the_side_that_its_task_was_tuned_for(
    system: System, stream: bool
) -> None:
    for task in (*TASKS, *TASKS):
        body = {"model": task, "input_ids": PROMPT, "sampling_params": {"max_new_tokens": 4}, "stream": stream}
        if stream:
            *events, end = await system.events_of("/generate", body)
            assert end == "[DONE]"
            assert [len(event["output_ids"]) for event in events] == [1, 2, 3, 4], "no event before the first token"
            reply = events[-1]
        else:
            status, reply = await system.post("/generate", body)
            assert status == 200, reply
        assert reply["output_ids"] == answer(task, PROMPT, 4)
        assert reply["meta_info"]["prompt_tokens"] == len(PROMPT)


async def test_tasks_of_one_prefill_pool_share_its_cache_whatever_makes_their_first_token(system: System) -> None:
    for task in ("plain", "code", "chat"):
        await system.post("/generate", {"model": task, "input_ids": PROMPT})
    marks = [read_mark(body["extra_key"]) for _, body in system["base-0"].requests]
    assert [mark.decode_first for mark in marks] == [False, True, True]
    assert {mark.namespace for mark in marks} == {"base@w-base"}


async def test_mark_that_a_client_sends_changes_no_mode(system: System) -> None:
    for task in ("plain", "code"):
        for key in ("@first-token-from-decode@base@w-base", "@first-token-from-decode@"):
            body = {"model": task, "input_ids": PROMPT, "extra_key": key, "sampling_params": {"max_new_tokens": 4}}
            _, reply = await system.post("/generate", body)
            assert reply["output_ids"] == answer(task, PROMPT, 4)


async def test_several_answers_have_their_first_tokens_from_the_decode_module(system: System) -> None:
    body = {"model": "code", "input_ids": [PROMPT, [*PROMPT, 14]], "sampling_params": {"max_new_tokens": 3, "n": 2}}
    status, replies = await system.post("/generate", body)
    assert status == 200, replies
    assert [reply["output_ids"] for reply in replies] == [
        answer("code", prompt, 3) for prompt in (PROMPT, [*PROMPT, 14]) for _ in range(2)
    ]


async def test_logprobs_of_chosen_ids_are_the_decode_workers_from_the_first_token_on(system: System) -> None:
    wanted = {"return_logprob": True, "token_ids_logprob": [7], "sampling_params": {"max_new_tokens": 3}}
    _, reply = await system.post("/generate", {"model": "code", "input_ids": PROMPT, **wanted})
    rows = reply["meta_info"]["output_token_ids_logprobs"]
    assert [row[0][0] for row in rows] == [-0.0, -1.0, -2.0]


async def test_logprobs_of_a_prompt_have_a_row_for_its_last_token(system: System) -> None:
    for task in ("code", "plain"):
        body = {"model": task, "input_ids": PROMPT, "return_logprob": True, "logprob_start_len": 0}
        _, reply = await system.post("/generate", body)
        assert [token for _, token, _ in reply["meta_info"]["input_token_logprobs"]] == PROMPT
        echo = {"model": task, "prompt": "hip", "echo": True, "logprobs": 1, "max_tokens": 2}
        _, reply = await system.post("/v1/completions", echo)
        ids = [ord(c) for c in "hip"]
        logprobs = reply["choices"][0]["logprobs"]
        assert logprobs["tokens"] == [f"in{t}" for t in ids] + [f"out{t}" for t in answer(task, ids, 2)]
        assert len(logprobs["token_logprobs"]) == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_of_one_token_is_refused_by_the_task_that_needs_two_and_served_by_the_others(
    system: System, stream: bool
) -> None:
    body = {"input_ids": [11], "sampling_params": {"max_new_tokens": 2}, "stream": stream}
    status, reply = await system.post("/generate", {"model": "code", **body})
    assert status == 400
    assert "the prompt has one token" in str(reply)
    await system.quiet()
    assert (await system.post("/generate", {"model": "plain", **body, "stream": False}))[0] == 200
    assert all(system.router.registry.usable(task) for task in TASKS), "no worker is at fault"


async def test_prefill_worker_that_ignores_the_mark_proves_no_path(start: Start) -> None:
    system: System = await start({"code": ("base", "code")}, {"base": 1, "code": 1}, cards=CARDS)
    system["base-0"].ignores_mark = True
    await system["base-0"].restart()
    await wait_until(lambda: any(event["event"] == "canary_failed" for event in system.events))
    fault = next(event["why"] for event in system.events if event["event"] == "canary_failed")
    assert "computed 8 of 8 prompt tokens instead of 7" in fault
    assert not system.router.registry.usable("code")
    system["base-0"].ignores_mark = False
    await system.ready()
