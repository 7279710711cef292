"""Tasks whose first token the decode module makes, over real servers, beside tasks of the other mode.

`last`, `last-small` and `last-uncached`: a tuned prefill module, and a decode pool that serves the other mode too.
`pages-share` and `qwen3-share`: a tuned decode module, and a prefill pool that serves the other mode too.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.patches.versions import installed_version
from tests.engine.conftest import (
    DECODE_FIRST,
    Deployment,
    Reference,
    events_of,
    frozen,
    gather,
    generate,
    load,
    some_tokens,
)
from tests.engine.precision import PRECISION
from tests.engine.test_api import ask, greedy, require_constraints
from tests.engine.test_cache import converse, decode_hits
from tests.engine.watch import SOON, in_flight, metric, transfers_reach
from tests.support.sglang_questions import SGLangQuestions

# a task of each kind of pool, with a task of the other mode on one of its workers
MIXED = (("last", "llama-a"), ("pages-share", "pages"), ("qwen3-share", "qwen3-b"))
References = dict[str, Reference]
calls_sglang = pytest.mark.skipif(
    installed_version() == "0.5.21", reason="its scheduler calls the cache in another way than `cache_worker.py`"
)


def random_prompt(rng: random.Random, shortest: int = 2, longest: int = 120) -> list[int]:
    return [rng.randrange(5, 260) for _ in range(rng.randint(shortest, longest))]


# --- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("pair", MIXED, ids=lambda pair: pair[0])
@pytest.mark.parametrize("batch", [1, 3, 8])
async def test_batch_of_both_modes_on_one_worker_answers_as_the_references(
    client: httpx.AsyncClient, task_references: References, pair: tuple[str, str], batch: int
) -> None:
    rng = random.Random(batch)
    asked = [(pair[i % 2], random_prompt(rng), i % 3 == 0) for i in range(2 * batch)]
    replies = await gather(*(generate(client, task, prompt, 24, stream=s) for task, prompt, s in asked))
    for (task, prompt, _), reply in zip(asked, replies, strict=True):
        assert reply["meta_info"]["prompt_tokens"] == len(prompt)
        assert reply["meta_info"]["completion_tokens"] == 24
        task_references[task].check(prompt, reply["output_ids"])
    for task in pair:
        task_references[task].require_few_ties()


async def test_reference_tells_the_sides_apart_that_make_the_first_token(models: Path) -> None:
    """The comparison above rejects answers whose first token came from the other side."""
    rng = random.Random(7)
    by_decode = Reference(models / "llama-b", models / "llama-base", "decode")
    by_prefill = Reference(models / "llama-b", models / "llama-base")
    prompts = [random_prompt(rng, 20, 30) for _ in range(8)]
    assert all(by_decode.answer(prompt, 4)[0] != by_prefill.answer(prompt, 4)[0] for prompt in prompts)


@pytest.mark.invariant("I10")
@pytest.mark.parametrize("task", [pair[0] for pair in MIXED])
async def test_conversations_whose_first_tokens_the_decode_module_makes_answer_as_the_reference(
    client: httpx.AsyncClient, task_references: References, task: str
) -> None:
    rng = random.Random(100)
    conversations = [random_prompt(rng, 20, 60) for _ in range(3)]
    for turn in range(3):
        replies = await gather(*(generate(client, task, p, 16, stream=turn == 1) for p in conversations))
        for i, (prompt, reply) in enumerate(zip(conversations, replies, strict=True)):
            task_references[task].check(prompt, reply["output_ids"])
            if turn > 0:
                assert reply["meta_info"]["cached_tokens"] > 0, "a later turn has to find the earlier one's prompt"
            conversations[i] = prompt + reply["output_ids"] + random_prompt(rng, 5, 20)
    task_references[task].require_few_ties()


@pytest.mark.invariant("I8")
async def test_conversation_is_the_same_with_the_decode_cache_on_and_off(
    client: httpx.AsyncClient, deployment: Deployment
) -> None:
    for seed in range(50, 53):
        cached_turns, cached = await converse(client, deployment, "last", seed)
        uncached_turns, uncached = await converse(client, deployment, "last-uncached", seed)
        assert cached_turns == uncached_turns
        # each turn finds the prompt of the one before, without the token whose KV the decode module made
        assert (cached, uncached) == (39 + 73, 0)


async def test_prompt_of_whole_pages_leaves_its_last_page_out_of_the_decode_cache(
    client: httpx.AsyncClient, task_references: References
) -> None:
    """The last token of the third page is the decode module's."""
    prompt, salt = some_tokens(60, 48), {"cache_salt": uuid4().hex}
    found = []
    for length in (48, 48, 60):
        longer = prompt + some_tokens(61, length - 48)
        reply = await generate(client, "pages-share", longer, 8, **salt)
        task_references["pages-share"].check(longer, reply["output_ids"])
        found.append((reply["meta_info"]["cached_tokens"], decode_hits(reply)))
    assert found == [(0, 0), (32, 32), (32, 32)]


async def test_tasks_of_both_modes_share_the_cache_of_their_prefill_worker(
    client: httpx.AsyncClient, task_references: References
) -> None:
    prompt, salt = some_tokens(62, 70), {"cache_salt": uuid4().hex}
    for task, hits in (("pages", 0), ("pages-share", 64), ("pages", 64)):
        reply = await generate(client, task, prompt, 8, **salt)
        task_references[task].check(prompt, reply["output_ids"])
        assert reply["meta_info"]["cached_tokens"] == hits


@pytest.mark.parametrize("length", [2, 3, 16, 17, 18, 32, 33])
async def test_shortest_prompts_and_page_edges_answer_as_the_reference(
    client: httpx.AsyncClient, task_references: References, length: int
) -> None:
    prompt = some_tokens(70 + length, length)
    tasks = ("last", "pages-share", "qwen3-share")
    for task, reply in zip(tasks, await gather(*(generate(client, t, prompt, 20) for t in tasks)), strict=True):
        task_references[task].check(prompt, reply["output_ids"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("task", ["last", "qwen3-share"])
async def test_prompt_of_one_token_is_refused_and_no_worker_is_at_fault(
    client: httpx.AsyncClient, task_references: References, task: str, stream: bool
) -> None:
    for path, body in (
        ("/generate", {"input_ids": [9], "sampling_params": greedy(2)}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2}),
    ):
        reply = await client.post(path, json={"model": task, "stream": stream, **body})
        assert reply.status_code == 400, reply.text
        assert "the prompt has one token, and this task needs two" in reply.json()["error"]["message"]
    prompt = some_tokens(80, 12)
    task_references[task].check(prompt, (await generate(client, task, prompt, 4))["output_ids"])


# --- retraction -----------------------------------------------------------------------------------------------------


async def test_requests_that_a_full_worker_retracts_answer_as_the_reference(
    client: httpx.AsyncClient, deployment: Deployment, task_references: References
) -> None:
    """The worker receives more requests at once than it has room for; the newest are retracted first."""
    rng = random.Random(5)
    prompts = [[rng.randrange(5, 260) for _ in range(40)] for _ in range(12)]
    tasks = ["last-small" if i % 3 else "small" for i in range(12)]
    with frozen(deployment, "llama-a-0"), frozen(deployment, "last-b-0"):
        running = [asyncio.create_task(generate(client, *asked, 100)) for asked in zip(tasks, prompts, strict=True)]
        await wait_until(lambda: decoding_at_least(client, 12), within=SOON)
        await transfers_reach(client, deployment, "small-0", 8)
    replies = await gather(*running)
    assert any(reply["meta_info"]["num_retractions"] for reply in replies), "or this shows nothing"
    for task, prompt, reply in zip(tasks, prompts, replies, strict=True):
        task_references[task].check(prompt, reply["output_ids"])
        longer = prompt + reply["output_ids"] + [7, 8, 9]
        # generated KV that stayed in the cache would be found here, and change the answer
        task_references[task].check(longer, (await generate(client, task, longer, 12))["output_ids"])
    for task in ("last-small", "small"):
        task_references[task].require_few_ties()


async def decoding_at_least(client: httpx.AsyncClient, legs: int) -> bool:
    return await metric(client, "sun_leg_in_flight", leg="decode") >= legs


@pytest.fixture(scope="module")
def life(ask_sglang: SGLangQuestions) -> dict[str, Any]:
    return dict(ask_sglang("tests.engine.first_token_life:outcomes"))


@calls_sglang
@pytest.mark.parametrize("page", ["1", "16"])
def test_request_retracted_before_its_first_step_resumes_with_its_kv_and_its_last_prompt_token(
    life: dict[str, Any], page: str
) -> None:
    """SGLang's own functions fill the pool, retract, save the KV, and resume."""
    prompt = list(range(100, 149))
    assert life[page]["retracted"] == {
        "inputs": [[7, 148], [148]],
        "kv": prompt[:-1],
        "prompt": prompt,
        "output": [],
        "computed": [49],
        "retractions": 1,
    }


@calls_sglang
def test_request_retracted_before_its_first_step_would_end_the_server_without_its_hook(
    ask_sglang: SGLangQuestions,
) -> None:
    assert "index out of range" in ask_sglang("tests.engine.first_token_life:lost")


@calls_sglang
@pytest.mark.parametrize("page", ["1", "16"])
def test_decode_cache_of_ended_requests_holds_kv_of_prefill_workers_alone(life: dict[str, Any], page: str) -> None:
    assert life[page]["modules"] == ["prefill"]
    assert life[page]["found"] == {"49": 48, "48": 47 if page == "1" else 32}


@calls_sglang
def test_speculative_decoding_verifies_its_first_draft_after_the_last_prompt_token(ask_sglang: SGLangQuestions) -> None:
    """The drafted token followed the dropped one; the decode module computes what follows the last prompt token."""
    found = ask_sglang("tests.engine.first_token_life:draft")
    assert found == {"verified": [148], "drafted": [5], "kv": [48], "output": []}


# --- ends and constraints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["last", "qwen3-share"])
async def test_answer_that_ends_with_its_first_token_has_one(
    client: httpx.AsyncClient, task_references: References, task: str
) -> None:
    prompt = some_tokens(90, 16)
    (first, *_) = task_references[task].answer(prompt, 4)
    one = await ask(client, {"model": task, "input_ids": prompt, "sampling_params": greedy(1)})
    assert (one["output_ids"], one["meta_info"]["finish_reason"]) == ([first], {"type": "length", "length": 1})
    stops = greedy(8) | {"stop_token_ids": [first], "ignore_eos": False}
    stopped = await ask(client, {"model": task, "input_ids": prompt, "sampling_params": stops})
    assert stopped["output_ids"] == [first]
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": first}
    none = await ask(client, {"model": task, "input_ids": prompt, "sampling_params": greedy(0)})
    assert (none["output_ids"], none["meta_info"]["completion_tokens"]) == ([], 0)


@pytest.mark.parametrize("task", ["last", "qwen3-share"])
async def test_stop_that_the_prompt_ends_with_ends_no_answer(
    client: httpx.AsyncClient, task_references: References, task: str
) -> None:
    """The last prompt token stands in SGLang's output for a while."""
    reference = task_references[task]
    prompt = next(p for seed in range(91, 120) if (p := some_tokens(seed, 16))[-1] not in reference.answer(p, 12))
    params = greedy(12) | {"stop_token_ids": [prompt[-1]], "ignore_eos": False}
    reply = await ask(client, {"model": task, "input_ids": prompt, "sampling_params": params})
    assert reply["meta_info"]["finish_reason"] == {"type": "length", "length": 12}
    reference.check(prompt, reply["output_ids"])
    text = bytes(65 + seed % 26 for seed in range(16)).decode()
    whole = await ask(client, {"model": task, "text": text, "sampling_params": greedy(12)})
    if text[-1] not in whole["text"]:
        stopped = await ask(client, {"model": task, "text": text, "sampling_params": greedy(12, stop=[text[-1]])})
        assert stopped["text"] == whole["text"]
    at_once = await ask(client, {"model": task, "text": text, "sampling_params": greedy(12, stop=[whole["text"][:1]])})
    assert (at_once["text"], at_once["meta_info"]["completion_tokens"]) == ("", 1)


async def test_answer_without_a_limit_fills_the_context_as_in_the_other_mode(client: httpx.AsyncClient) -> None:
    found = []
    for task in ("llama-b", "last"):
        body = {"model": task, "messages": [{"role": "user", "content": "a" * 2000}], "logit_bias": {"76": 1000.0}}
        reply = await ask(client, body, "/v1/chat/completions")
        found.append((reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]))
    assert found[0] == found[1]
    assert found[0][0] == "length"


@pytest.mark.parametrize("task", ["last", "qwen3-share"])
@pytest.mark.parametrize("stream", [False, True])
async def test_grammar_holds_from_the_first_token_on_and_does_not_see_the_prompt(
    client: httpx.AsyncClient, task: str, stream: bool
) -> None:
    # `y` would begin an answer: a grammar that accepted it would go on with `es`
    await require_constraints(client, task, "say y", stream=stream)


async def test_bias_holds_for_the_first_token(client: httpx.AsyncClient) -> None:
    params = greedy(3) | {"logit_bias": {"76": 1000.0}}
    reply = await ask(client, {"model": "last", "input_ids": some_tokens(92, 9), "sampling_params": params})
    assert reply["output_ids"] == [76, 76, 76]


@pytest.mark.parametrize("task", ["last", "qwen3-share"])
async def test_min_new_tokens_counts_no_prompt_token(
    client: httpx.AsyncClient, task_references: References, task: str
) -> None:
    prompt = some_tokens(93, 16)
    first, *_ = task_references[task].answer(prompt, 4)
    for least in (1, 2):
        params = greedy(8) | {"stop_token_ids": [first], "ignore_eos": False, "min_new_tokens": least}
        reply = await ask(client, {"model": task, "input_ids": prompt, "sampling_params": params})
        assert first not in reply["output_ids"][:least], "a stop is impossible among so many tokens"
        assert len(reply["output_ids"]) > least or reply["output_ids"][-1] == first


async def test_penalties_count_no_prompt_token(client: httpx.AsyncClient, models: Path) -> None:
    """The first token equals the last one of the prompt, which a penalty that counted it would change."""
    reference = Reference(models / "llama-b", models / "llama-base", "decode")
    prompt = repeating_prompt(reference)
    for penalties in ({"repetition_penalty": 2.0}, {"presence_penalty": 2.0}):
        body = {"model": "last", "input_ids": prompt, "sampling_params": greedy(12) | penalties}
        answer = (await ask(client, body))["output_ids"]
        assert answer[0] == prompt[-1]
        assert answer == penalized_answer(reference, prompt, 12, **penalties)
    body = {"model": "last", "input_ids": prompt, "sampling_params": greedy(1) | {"frequency_penalty": 2.0}}
    assert (await ask(client, body))["output_ids"] == [prompt[-1]]


def repeating_prompt(reference: Reference) -> list[int]:
    """Return a prompt whose last token is also the first of its answer, and would not be with any of the penalties."""
    import torch

    for seed in range(200):
        start = some_tokens(1000 + seed, 6)
        ends = torch.arange(5, 260)
        prompts = torch.cat([torch.tensor([start]).expand(len(ends), -1), ends.unsqueeze(1)], dim=1)
        best = first_logits(reference, prompts).topk(2)
        for end, ids, (first, second) in zip(ends.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
            if ids[0] == end and first > 0 and max(first / 2, first - 2) < second:
                return [*start, end]
    raise AssertionError("no prompt repeats")


def first_logits(reference: Reference, prompts: Any) -> Any:
    """Return the logits of the first answer token, `[prompts, vocabulary]`; `prompts` is `[prompts, tokens]`."""
    import torch
    from transformers import DynamicCache

    with torch.inference_mode():
        cache = DynamicCache(config=reference.prefill.config)
        reference.prefill(input_ids=prompts[:, :-1], past_key_values=cache)
        return reference.decode(input_ids=prompts[:, -1:], past_key_values=cache).logits[:, -1]


def penalized_answer(
    reference: Reference,
    prompt: list[int],
    length: int,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
) -> list[int]:
    """Return the greedy answer with penalties on the answer's own tokens, as SGLang applies them."""
    import torch
    from transformers import DynamicCache

    made: list[int] = []
    with torch.inference_mode():
        cache = DynamicCache(config=reference.prefill.config)
        reference.prefill(input_ids=torch.tensor([prompt[:-1]]), past_key_values=cache)
        token = prompt[-1]
        for _ in range(length):
            logits = reference.decode(input_ids=torch.tensor([[token]]), past_key_values=cache).logits[0, -1].float()
            for seen in set(made):
                factor = 1 / repetition_penalty if logits[seen] > 0 else repetition_penalty
                logits[seen] = logits[seen] * factor - presence_penalty
            token = int(logits.argmax())
            made.append(token)
    return made


# --- streams, usage, logprobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["last", "pages-share"])
async def test_stream_has_a_token_in_its_first_event_and_in_every_other(client: httpx.AsyncClient, task: str) -> None:
    body = {"model": task, "input_ids": some_tokens(100, 20), "sampling_params": greedy(60), "stream": True}
    *events, end = [event async for event in events_of(client, "/generate", body)]
    assert end == "[DONE]"
    counts = [len(json.loads(event)["output_ids"]) for event in events]
    assert counts[0] > 0
    assert counts == sorted(set(counts)), "each event has more tokens than the one before"
    assert [json.loads(event)["meta_info"]["completion_tokens"] for event in events] == counts


async def test_chat_and_completion_streams_are_those_of_the_other_mode(client: httpx.AsyncClient) -> None:
    """An event with a token and without text is not new: half of a character waits for the other half."""
    for path, more in (
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    ):
        shapes = []
        for task in ("llama-b", "last"):
            body = {"model": task, "max_tokens": 40, "logit_bias": {"76": 1000.0}, "stream": True, **more}
            body["stream_options"] = {"include_usage": True}
            *events, end = [event async for event in events_of(client, path, body)]
            assert end == "[DONE]"
            texts = "".join(
                str((c.get("delta") or {}).get("content") or c.get("text") or "")
                for event in events
                for c in json.loads(event)["choices"]
            )
            usage = json.loads(events[-1])["usage"]
            shapes.append((texts, usage["prompt_tokens"], usage["completion_tokens"], sorted(json.loads(events[0]))))
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("task", ["last", "qwen3-share"])
@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_are_the_prefill_modules_for_the_prompt_and_the_decode_modules_from_the_first_token_on(
    client: httpx.AsyncClient, task_references: References, task: str, stream: bool
) -> None:
    prompt, chosen = some_tokens(101, 90), [7, 200, 31]
    wanted = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 3, "token_ids_logprob": chosen}
    for _ in range(2):  # the second time around the prompt is in both workers' caches
        reply = await generate(client, task, prompt, 8, stream=stream, **wanted)
        meta = reply["meta_info"]
        of_prompt, of_answer = logprobs(task_references[task], prompt, reply["output_ids"])
        (first, *given), answered = meta["input_token_logprobs"], meta["output_token_logprobs"]
        assert first[0] is None, "nothing comes before the first token"
        assert [token for _, token, _ in (first, *given)] == prompt
        assert [value for value, *_ in given] == pytest.approx(
            [float(row[token]) for row, token in zip(of_prompt, prompt[1:], strict=True)], abs=PRECISION.tie
        )
        assert [token for _, token, _ in answered] == reply["output_ids"]
        assert [value for value, *_ in answered] == pytest.approx(
            [float(row[token]) for row, token in zip(of_answer, reply["output_ids"], strict=True)], abs=PRECISION.tie
        )
        for rows, tops, ids in (
            (of_prompt, meta["input_top_logprobs"][1:], meta["input_token_ids_logprobs"][1:]),
            (of_answer, meta["output_top_logprobs"], meta["output_token_ids_logprobs"]),
        ):
            for row, top, of_ids in zip(rows, tops, ids, strict=True):
                best = row.topk(3)
                assert [value for value, *_ in top] == pytest.approx(best.values.tolist(), abs=PRECISION.tie)
                assert [value for value, *_ in of_ids] == pytest.approx(
                    [float(row[token]) for token in chosen], abs=PRECISION.tie
                )


def logprobs(reference: Reference, prompt: list[int], answer: list[int]) -> Any:
    """Return log-probabilities over the vocabulary of the prompt without its first token, and of the answer.

    The prompt's are the prefill module's, and all of the answer's are the decode module's.
    """
    import torch

    from sun_sglang.contracts.scheme import SCHEMES
    from sun_sglang.train.objective.two_module_loss import TwoModule

    with torch.inference_mode():
        ids = torch.tensor([prompt])
        of_prompt = reference.prefill(input_ids=ids).logits[0, :-1]
        scheme = SCHEMES["prefill_only"].with_first_token("decode")
        pair = TwoModule(reference.prefill, reference.decode, scheme)
        of_answer = pair(ids, torch.ones_like(ids), torch.tensor([answer])).logits[0]
    return of_prompt.log_softmax(-1), of_answer.log_softmax(-1)


async def test_logprobs_from_a_place_in_the_prompt_with_echo_and_at_a_low_temperature(
    client: httpx.AsyncClient, task_references: References
) -> None:
    prompt = some_tokens(102, 50)
    # the prefill worker computes 32 tokens, and then the other 17
    for start in (12, 31, 32, 33, 49, 50):
        # the prompt's logprobs do not depend on how the answer is sampled
        params = {"temperature": 0.2, "max_new_tokens": 4, "ignore_eos": True}
        fields = {"return_logprob": True, "logprob_start_len": start, "sampling_params": params}
        part = await ask(client, {"model": "last", "input_ids": prompt, **fields})
        of_prompt, _ = logprobs(task_references["last"], prompt, part["output_ids"])
        given = part["meta_info"]["input_token_logprobs"]
        assert [token for _, token, _ in given] == prompt[start:]
        assert [value for value, *_ in given[1:]] == pytest.approx(
            [float(row[t]) for row, t in zip(of_prompt[start:], prompt[start + 1 :], strict=True)], abs=PRECISION.tie
        )
    body = {"model": "last", "prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 1, "echo": True}
    echoed = await ask(client, body, "/v1/completions")
    values = echoed["choices"][0]["logprobs"]["token_logprobs"]
    assert values[0] is None
    assert len(values) == 50 + echoed["usage"]["completion_tokens"]
    of_prompt, of_answer = logprobs(task_references["last"], prompt, list(task_references["last"].answer(prompt, 4)))
    answer = task_references["last"].answer(prompt, 4)
    assert values[1:50] == pytest.approx(
        [float(row[t]) for row, t in zip(of_prompt, prompt[1:], strict=True)], abs=PRECISION.tie
    )
    assert values[50] == pytest.approx(float(of_answer[0][answer[0]]), abs=PRECISION.tie)


async def test_token_ids_and_usage_have_the_whole_prompt(client: httpx.AsyncClient) -> None:
    prompt = some_tokens(103, 64)
    body = {"model": "last", "prompt": prompt, "max_tokens": 3, "temperature": 0, "cache_salt": uuid4().hex}
    replies = [await ask(client, body | {"return_token_ids": True}, "/v1/completions") for _ in range(2)]
    for reply in replies:
        assert reply["usage"]["prompt_tokens"] == 64
        assert reply["choices"][0]["prompt_token_ids"] == prompt
    cached = [(reply["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0) for reply in replies]
    assert cached == [0, 62], "of 63 tokens that are prefilled the last one is always computed"


async def test_several_answers_and_prompts_in_one_request(
    client: httpx.AsyncClient, task_references: References
) -> None:
    prompts = [some_tokens(104, 12), some_tokens(105, 15)]
    replies = await ask(client, {"model": "last", "input_ids": prompts, "sampling_params": greedy(6, n=3)})
    assert len(replies) == 6
    for i, reply in enumerate(replies):
        task_references["last"].check(prompts[i // 3], reply["output_ids"])


async def test_client_that_leaves_before_the_first_token_leaves_nothing(
    client: httpx.AsyncClient, deployment: Deployment, task_references: References
) -> None:
    body = {"model": "last-uncached", "input_ids": some_tokens(106, 30), "sampling_params": greedy(50)}
    with frozen(deployment, "uncached-0"):
        asked = asyncio.create_task(client.post("/generate", json=body))
        await wait_until(lambda: decoding_at_least(client, 1), within=SOON)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    await wait_until(lambda: is_idle(client), within=SOON)
    prompt = some_tokens(107, 30)
    reply = await generate(client, "last-uncached", prompt, 8)
    task_references["last-uncached"].check(prompt, reply["output_ids"])


async def is_idle(client: httpx.AsyncClient) -> bool:
    return await in_flight(client) == 0


async def test_every_worker_reports_its_mode_and_its_hooks(client: httpx.AsyncClient, deployment: Deployment) -> None:
    for name, mode in (("last-b-0", "decode"), ("pages-share-0", "decode"), ("llama-base-0", "prefill")):
        card = (await client.get(f"{deployment.process(name).url}/sun/worker")).json()
        assert card["first_token"] == mode
        assert {"split_prompt.split", "first_step.start"} <= {hook["name"] for hook in card["patches"]}
    assert set(DECODE_FIRST) <= set((await client.get("/tasks")).json()["tasks"])


def test_models_of_the_two_sides_differ(models: Path) -> None:
    assert load(models / "llama-last-b").config.architectures == load(models / "llama-base").config.architectures
