"""Workers that repeat given tokens: what follows equals transformers', which is given the same tokens."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from copy import copy
from typing import Any

import httpx
import pytest
import torch
from transformers import DynamicCache

from sun_sglang.contracts.first_token import mark_decode_first
from sun_sglang.contracts.replay import mark_replay
from tests.engine.conftest import BUSY, Deployment, Reference, frozen, gather, some_tokens
from tests.engine.test_cache import ask_pair
from tests.engine.watch import transfers_reach
from tests.support.token_reports import split_tokens

FREE = 8
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture
async def raw(deployment: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=BUSY, headers=deployment.headers) as client:
        yield client


@torch.inference_mode()
def logits(reference: Reference, prompt: Sequence[int], answer: Sequence[int]) -> Any:
    """Return the logits of each token of an answer that is given; shape: (tokens, vocabulary)."""
    prefill, decode = reference.prefill, reference.decode
    cache = DynamicCache(config=prefill.config)
    if reference.first_token == "decode":
        prefill(input_ids=torch.tensor([prompt[:-1]]), past_key_values=cache)
        out = decode(input_ids=torch.tensor([prompt[-1:]]), past_key_values=cache)
    else:
        out = prefill(input_ids=torch.tensor([prompt]), past_key_values=cache)
    steps = (decode(input_ids=torch.tensor([[token]]), past_key_values=cache) for token in answer[:-1])
    return torch.stack([one.logits[0, -1] for one in (out, *steps)]).float()


def check(reference: Reference, prompt: Sequence[int], given: Sequence[int], reply: dict[str, Any]) -> bool:
    """Assert that an answer has the given tokens, then greedy ones, and the logprobs of both. Return whether of a tie.

    After a tie of two logits, which another batch may decide differently, all later text differs.
    """
    ids, row = reply["output_ids"], reply["meta_info"]["output_token_logprobs"]
    assert ids[: len(given)] == list(given)
    assert [token for _, token, _ in row] == ids
    expected = logits(reference, prompt, ids)
    served = torch.tensor([logprob for logprob, _, _ in row])
    read = expected.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert torch.allclose(served, read, atol=reference.precision.tie), (served, read)
    best = expected.topk(2)
    for place in range(len(given), len(ids)):
        if ids[place] != best.indices[place, 0]:
            assert best.values[place, 0] - expected[place, ids[place]] < reference.precision.tie
            return True
    return False


@pytest.mark.parametrize(
    ("pair", "decode_first"),
    [
        (("llama-a-0", "llama-base-0"), False),
        (("llama-a-0", "llama-base-0"), True),
        (("qwen3-a-0", "qwen3-base-1"), False),
        (("pages-a-0", "pages-base-0"), False),
        # the answers do not fit together: some lose their KV on the way
        (("llama-a-0", "small-0"), False),
        (("llama-a-0", "small-0"), True),
    ],
    ids=["llama", "llama-decode-first", "qwen3", "pages", "retracted", "retracted-decode-first"],
)
async def test_given_tokens_then_greedy_ones_equal_the_reference(
    raw: httpx.AsyncClient,
    deployment: Deployment,
    task_references: dict[str, Reference],
    pair: tuple[str, str],
    decode_first: bool,
) -> None:
    prefill, decode = pair
    task = {"qwen3-base-1": "qwen3-a", "pages-base-0": "pages"}.get(decode, "llama-a")
    reference = copy(task_references[task])
    reference.first_token = "decode" if decode_first else "prefill"
    rng, small = random.Random(70), decode == "small-0"
    jobs = []
    for number in range(8 if small else 24):
        prompt = [rng.randrange(5, 260) for _ in range(rng.randint(2, 60))]
        count = rng.randint(40, 80) if small else number % 12
        # tokens that the model would not make
        jobs.append((prompt, [rng.randrange(5, 260) for _ in range(count)]))

    async def answer(prompt: list[int], given: list[int]) -> dict[str, Any]:
        key = f"replay-{decode}"
        fields: dict[str, Any] = {
            "sampling_params": GREEDY | {"max_new_tokens": len(given) + FREE},
            "return_logprob": True,
            "extra_key": mark_replay(mark_decode_first(key) if decode_first else key, given),
        }
        return await ask_pair(raw, deployment, prefill, prompt, decode, **fields)

    running = asyncio.gather(*(answer(*job) for job in jobs))
    if small:
        # they begin together
        with frozen(deployment, prefill):
            await transfers_reach(raw, deployment, decode, len(jobs))
    replies = await running
    ties = sum(check(reference, *job, reply) for job, reply in zip(jobs, replies, strict=True))
    assert ties <= 1
    assert any(reply["meta_info"]["num_retractions"] for reply in replies) or not small


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.4},
        {"frequency_penalty": 1.2, "presence_penalty": 0.6},
        {"min_new_tokens": 10, "stop_token_ids": list(range(5, 130)), "ignore_eos": False},
        {"stop": ["a", "e", "o"]},
        {"logit_bias": {"100": 3.0}},
        {"json_schema": json.dumps({"type": "object", "properties": {"a": {"type": "array", "items": {}}}})},
    ],
    ids=["repetition", "frequency", "min_new_tokens", "stop", "bias", "grammar"],
)
async def test_state_that_depends_on_the_answer_is_that_of_an_unbroken_run(
    raw: httpx.AsyncClient, deployment: Deployment, params: dict[str, Any]
) -> None:
    ended = Counter[str]()
    for number in range(6):
        prompt = some_tokens(7100 + number, 20)
        fields = {"sampling_params": GREEDY | {"max_new_tokens": 24} | params, "extra_key": mark_replay("state")}
        unbroken = await ask_pair(raw, deployment, "llama-a-0", prompt, **fields)
        tokens = unbroken["output_ids"]
        ended[unbroken["meta_info"]["finish_reason"]["type"]] += 1
        # all tokens but the last: the last one ends the answer
        for cut in {1, len(tokens) // 2, len(tokens) - 1} - {0}:
            given = {"extra_key": mark_replay("state", tokens[:cut])}
            replayed = await ask_pair(raw, deployment, "llama-a-0", prompt, **fields | given)
            assert (replayed["text"], replayed["output_ids"]) == (unbroken["text"], tokens)
            assert replayed["meta_info"]["finish_reason"] == unbroken["meta_info"]["finish_reason"]
    if "stop" in params or "stop_token_ids" in params:
        assert ended["stop"], "some answers end before their limit"


async def test_token_after_given_ones_is_sampled_from_its_own_distribution(
    raw: httpx.AsyncClient, deployment: Deployment, task_references: dict[str, Reference]
) -> None:
    prompt, given, draws, temperature = some_tokens(7200, 12), [40, 41, 42], 200, 1.4
    params = {"temperature": temperature, "max_new_tokens": len(given) + 1, "ignore_eos": True}
    fields = {"sampling_params": params, "extra_key": mark_replay("draws", given)}
    replies = await gather(*(ask_pair(raw, deployment, "llama-a-0", prompt, **fields) for _ in range(draws)))
    drawn = Counter(reply["output_ids"][-1] for reply in replies)
    assert all(reply["output_ids"][:-1] == given for reply in replies)
    expected = (logits(task_references["llama-a"], prompt, [*given, 0])[-1] / temperature).softmax(-1) * draws
    # cells of at least five expected draws, and one for all the others
    cells = [(drawn[token], float(count)) for token, count in enumerate(expected) if count >= 5]
    assert len(cells) > 3, "the distribution is wide enough to test"
    cells.append((draws - sum(seen for seen, _ in cells), draws - sum(count for _, count in cells)))
    statistic = sum((seen - count) ** 2 / count for seen, count in cells if count > 1)
    degrees = len(cells) - 1
    # Wilson-Hilferty: one in a million draws of a right worker is beyond it
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 4.75 * (2 / (9 * degrees)) ** 0.5) ** 3, cells


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_stream_reports_its_tokens(raw: httpx.AsyncClient, deployment: Deployment, path: str) -> None:
    prefill, decode = (deployment.process(name).url for name in ("llama-a-0", "llama-base-0"))
    card = (await raw.get(f"{prefill}/sun/worker")).json()
    body: dict[str, Any] = {
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": card["bootstrap_port"],
        "bootstrap_room": random.getrandbits(62) + 1,
        "rid": f"{random.getrandbits(128):032x}",
    }
    if path == "/generate":
        body |= {"input_ids": some_tokens(7300, 20), "sampling_params": GREEDY | {"max_new_tokens": 12}}
    else:
        body |= GREEDY | {"max_tokens": 12, "model": "llama-a", "stream_options": {"include_usage": True}}
        body |= {"prompt": some_tokens(7300, 20)} if path == "/v1/completions" else {}
        body |= {"messages": [{"role": "user", "content": "hello"}]} if path == "/v1/chat/completions" else {}
    key = {"extra_key": mark_replay("stream")}
    prefilled = raw.post(prefill + path, json={k: v for k, v in body.items() if k != "stream_options"} | key)
    streamed = raw.post(decode + path, json=body | key | {"stream": True})
    first, second = await gather(prefilled, streamed)
    assert (first.status_code, second.status_code) == (200, 200), first.text
    reported: list[int] = []
    for event in second.content.split(b"\n\n"):
        tokens, rest = split_tokens(event)
        reported += tokens or []
        if path == "/generate" and rest.startswith(b"data: {"):
            assert reported == json.loads(rest.removeprefix(b"data: "))["output_ids"]
    assert len(reported) == 12
    assert b": tokens" not in first.content


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"extra_key": mark_replay("x", [100000])}, "not one of the model's"),
        ({"extra_key": "@tokens:A@x"}, "cannot be read"),
        ({"custom_logit_processor": json.dumps({"callable": pickle.dumps(print).hex()})}, "custom logit processor"),
    ],
    ids=["vocabulary", "mark", "pickle"],
)
async def test_worker_refuses_what_it_cannot_repeat_and_code(
    raw: httpx.AsyncClient, deployment: Deployment, fields: dict[str, Any], why: str
) -> None:
    for worker in ("llama-a-0", "llama-base-0"):
        reply = await raw.post(deployment.process(worker).url + "/generate", json={"input_ids": [5, 6], **fields})
        assert reply.status_code == 400
        assert why in reply.text
