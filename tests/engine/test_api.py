"""SGLang's own API and the router's pages, over real servers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from jsonschema import validate

from sun_sglang.bench.polling import wait_until
from tests.engine.conftest import Deployment, Reference, events_of, frozen, gather, generate, load, some_tokens
from tests.engine.precision import PRECISION
from tests.engine.watch import SOON, in_flight, metric

COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def greedy(length: int, **more: Any) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": length, "ignore_eos": True, **more}


async def ask(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/generate") -> Any:
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- several prompts, several answers -------------------------------------------------------------------------------


async def test_a_list_of_prompts_with_parameters_for_each(
    client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    prompts = [some_tokens(1000 + i, 10 + i) for i in range(4)]
    params = [greedy(3 + i) for i in range(4)]
    replies = await ask(client, {"model": "llama-b", "input_ids": prompts, "sampling_params": params})
    for i, reply in enumerate(replies):
        assert reply["meta_info"]["prompt_tokens"] == 10 + i
        assert len(reply["output_ids"]) == 3 + i
        task_references["llama-b"].check(prompts[i], reply["output_ids"])


async def test_a_list_of_one_is_a_list(client: httpx.AsyncClient) -> None:
    replies = await ask(client, {"model": "llama-a", "text": ["abc"], "sampling_params": greedy(2)})
    assert [len(r["output_ids"]) for r in replies] == [2]


async def test_several_answers_to_each_prompt(client: httpx.AsyncClient, task_references: dict[str, Reference]) -> None:
    prompts = [some_tokens(1020, 12), some_tokens(1021, 15)]
    replies = await ask(client, {"model": "llama-a", "input_ids": prompts, "sampling_params": greedy(6, n=3)})
    assert len(replies) == 6
    for i, reply in enumerate(replies):
        task_references["llama-a"].check(prompts[i // 3], reply["output_ids"])
    assert len({r["meta_info"]["id"] for r in replies}) == 6
    sampled = {"model": "llama-a", "input_ids": prompts[0], "sampling_params": greedy(12, n=4) | {"temperature": 1}}
    assert len({tuple(r["output_ids"]) for r in await ask(client, sampled)}) == 4


async def test_a_streamed_list(client: httpx.AsyncClient, task_references: dict[str, Reference]) -> None:
    prompts = [some_tokens(1030 + i, 8) for i in range(3)]
    body = {"model": "llama-b", "input_ids": prompts, "sampling_params": greedy(9), "stream": True}
    *events, end = [event async for event in events_of(client, "/generate", body)]
    assert end == "[DONE]"
    last = {chunk["index"]: chunk for chunk in map(json.loads, events)}
    assert sorted(last) == [0, 1, 2]
    for i, chunk in last.items():
        task_references["llama-b"].check(prompts[i], chunk["output_ids"])


async def test_metrics_of_a_forked_worker_hold_what_its_scheduler_counts(
    client: httpx.AsyncClient, deployment: Deployment
) -> None:
    url = f"{deployment.process('qwen3-a-0').url}/metrics/"

    async def transfers() -> float:
        page = (await client.get(url)).text
        return sum(float(count) for count in re.findall(r"^sglang:kv_transfer_total_mb_count\S* (\S+)$", page, re.M))

    before = await transfers()
    await generate(client, "qwen3-a", some_tokens(77, 20), 2)
    await wait_until(lambda: _exceeds(transfers, before), "the transfer counted", within=SOON)


async def _exceeds(count: Callable[[], Awaitable[float]], before: float) -> bool:
    return await count() > before


# long enough that no answer ends before its decode worker is stopped
LONG_ANSWERS: dict[str, dict[str, Any]] = {
    "/generate": {"text": "abc", "sampling_params": greedy(1900)},
    "/v1/completions": {"prompt": "abc", "max_tokens": 1900, "ignore_eos": True},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "abc"}],
        "max_tokens": 1900,
        "ignore_eos": True,
    },
}


async def test_answers_of_every_endpoint_come_while_they_are_made(
    client: httpx.AsyncClient, deployment: Deployment
) -> None:
    """The test stops the decode worker in the middle: the client has the tokens made so far, and not the end."""
    async with AsyncExitStack() as stack:
        streams = [
            events_of(client, path, {"model": "uncached", "stream": True} | body) for path, body in LONG_ANSWERS.items()
        ]
        for events in streams:
            await stack.enter_async_context(aclosing(events))
        begun = await gather(*(first_of(events, 3) for events in streams))
        with frozen(deployment, "uncached-0"):
            assert await metric(client, "sun_leg_in_flight", task="uncached", leg="decode") == len(LONG_ANSWERS)
        rests = await gather(*(rest_of(events) for events in streams))
    for path, first, rest in zip(LONG_ANSWERS, begun, rests, strict=True):
        assert "[DONE]" not in first, path
        assert len(rest) > 1, path
        assert rest[-1] == "[DONE]", path


async def first_of(events: AsyncIterator[str], count: int) -> list[str]:
    return [await anext(events) for _ in range(count)]


async def rest_of(events: AsyncIterator[str]) -> list[str]:
    return [event async for event in events]


# --- logprobs -------------------------------------------------------------------------------------------------------


def reference_logprobs(prefill: Path, decode: Path, prompt: Sequence[int], answer: Sequence[int]) -> Any:
    """Return log-probabilities over the vocabulary: [prompt - 1] of the prompt without its first token, [answer] of the
    answer.

    The prompt's and the first answer token's are the prefill model's, all later ones the decode model's.
    """
    import torch

    from sun_sglang.contracts.scheme import SCHEMES
    from sun_sglang.train.objective.two_module_loss import TwoModule

    with torch.inference_mode():
        ids = torch.tensor([prompt])
        of_prompt = load(prefill)(input_ids=ids).logits[0, :-1]
        pair = TwoModule(load(prefill), load(decode), SCHEMES["prefill_only"])
        of_answer = pair(ids, torch.ones_like(ids), torch.tensor([answer])).logits[0]
    return of_prompt.log_softmax(-1), of_answer.log_softmax(-1)


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_the_prompt_are_the_prefill_models_and_later_ones_the_decode_models(
    client: httpx.AsyncClient, models: Path, stream: bool
) -> None:
    prompt = some_tokens(1040, 30)
    wanted = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 3}
    for _ in range(2):  # the second time around the prompt is in both workers' caches
        reply = await generate(client, "llama-a", prompt, 8, stream=stream, **wanted)
        of_prompt, of_answer = reference_logprobs(
            models / "llama-a", models / "llama-base", prompt, reply["output_ids"]
        )
        meta = reply["meta_info"]
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
        for rows, tops in ((of_prompt, meta["input_top_logprobs"][1:]), (of_answer, meta["output_top_logprobs"])):
            for row, top in zip(rows, tops, strict=True):
                best = row.topk(3)
                assert [value for value, *_ in top] == pytest.approx(best.values.tolist(), abs=PRECISION.tie)
                assert {token for _, token, _ in top} == set(best.indices.tolist())
    # another model would give other values
    wrong, _ = reference_logprobs(models / "llama-b", models / "llama-base", prompt, reply["output_ids"])
    assert max(abs(float(row[t]) - v[0]) for row, t, v in zip(wrong, prompt[1:], given, strict=True)) > 0.1


async def test_logprobs_from_a_place_in_the_prompt_and_with_echo(client: httpx.AsyncClient, models: Path) -> None:
    prompt = some_tokens(1041, 20)
    part = await generate(client, "llama-b", prompt, 4, return_logprob=True, logprob_start_len=12)
    of_prompt, _ = reference_logprobs(models / "llama-b", models / "llama-base", prompt, part["output_ids"])
    given = part["meta_info"]["input_token_logprobs"]
    assert [token for _, token, _ in given] == prompt[12:]
    assert [value for value, *_ in given[1:]] == pytest.approx(
        [float(row[t]) for row, t in zip(of_prompt[12:], prompt[13:], strict=True)], abs=PRECISION.tie
    )
    echoed = await ask(
        client,
        {"model": "llama-b", "prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 1, "echo": True},
        "/v1/completions",
    )
    values = echoed["choices"][0]["logprobs"]["token_logprobs"]
    assert values[0] is None
    assert len(values) == 20 + echoed["usage"]["completion_tokens"]
    assert values[1:20] == pytest.approx(
        [float(row[t]) for row, t in zip(of_prompt, prompt[1:], strict=True)], abs=PRECISION.tie
    )


async def test_a_stream_has_the_prompts_logprobs_where_its_clients_look(client: httpx.AsyncClient) -> None:
    """In /generate the first event and the last, which is the whole answer; in completions the first."""
    prompt = some_tokens(1043, 20)
    body = {"model": "llama-b", "input_ids": prompt, "sampling_params": greedy(40), "stream": True}
    wanted = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    *events, end = [event async for event in events_of(client, "/generate", body | wanted)]
    assert end == "[DONE]"
    first, *others, last = [json.loads(event)["meta_info"] for event in events]
    for meta in (first, last):
        assert [token for _, token, _ in meta["input_token_logprobs"]] == prompt
        assert len(meta["input_top_logprobs"]) == len(prompt)
    assert others
    assert not any(meta["input_token_logprobs"] or meta["input_top_logprobs"] for meta in others)
    assert len(last["output_token_logprobs"]) == 40

    body = {"model": "llama-b", "prompt": prompt, "max_tokens": 40, "temperature": 0, "logprobs": 2, "echo": True}
    whole = (await ask(client, body, "/v1/completions"))["choices"][0]["logprobs"]
    *events, end = [event async for event in events_of(client, "/v1/completions", body | {"stream": True})]
    assert end == "[DONE]"
    columns = [c["logprobs"] for event in events for c in json.loads(event)["choices"] if c["logprobs"]]
    assert len(columns) > 2
    assert [token for c in columns for token in c["tokens"]] == whole["tokens"]
    values = [value for c in columns for value in c["token_logprobs"]]
    assert values == pytest.approx(whole["token_logprobs"], abs=PRECISION.tie)


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_chosen_ids_are_the_prefill_models_for_the_first_token_and_the_decode_models_later(
    client: httpx.AsyncClient, models: Path, stream: bool
) -> None:
    prompt, chosen = some_tokens(1044, 20), [7, 200, 31]
    wanted = {"return_logprob": True, "token_ids_logprob": chosen}
    reply = await generate(client, "llama-a", prompt, 40, stream=stream, **wanted)
    _, of_answer = reference_logprobs(models / "llama-a", models / "llama-base", prompt, reply["output_ids"])
    rows = reply["meta_info"]["output_token_ids_logprobs"]
    assert [[token for _, token, _ in row] for row in rows] == [chosen] * 40
    for row, given in zip(of_answer, rows, strict=True):
        expected = [float(row[token]) for token in chosen]
        assert [value for value, *_ in given] == pytest.approx(expected, abs=PRECISION.tie)


async def test_without_a_start_there_are_logprobs_of_the_answer_alone(client: httpx.AsyncClient) -> None:
    reply = await generate(client, "llama-a", some_tokens(1042, 9), 5, return_logprob=True)
    assert len(reply["meta_info"]["output_token_logprobs"]) == 5
    assert not reply["meta_info"].get("input_token_logprobs")


# --- ends and constraints -------------------------------------------------------------------------------------------


async def test_stops(client: httpx.AsyncClient, task_references: dict[str, Reference]) -> None:
    prompt = some_tokens(1050, 16)
    answer = task_references["llama-a"].answer(prompt, 32)
    at = next(i for i, token in enumerate(answer) if i > 5 and token not in answer[:i])
    params = greedy(32) | {"stop_token_ids": [answer[at]], "ignore_eos": False}
    reply = await ask(client, {"model": "llama-a", "input_ids": prompt, "sampling_params": params})
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": answer[at]}
    assert tuple(reply["output_ids"]) == answer[: at + 1]

    text = (await ask(client, {"model": "llama-a", "input_ids": prompt, "sampling_params": greedy(64)}))["text"]
    character = next(c for i, c in enumerate(text) if i > 5 and c.isascii() and c not in text[:i])
    params = greedy(64, stop=[character])
    stopped = await ask(client, {"model": "llama-a", "input_ids": prompt, "sampling_params": params})
    assert stopped["text"] == text[: text.index(character)]
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": character}


async def require_constraints(client: httpx.AsyncClient, task: str, prompt: str, *, stream: bool) -> None:
    """Raise unless the whole answers to a prompt match a regular expression, a JSON schema and a grammar."""
    limits = {"temperature": 1, "max_new_tokens": 200}
    for params in ({"regex": "(yes|no), [0-9]{3}"}, {"json_schema": json.dumps(COUNT)}, {"ebnf": 'root ::= "a" "b"+'}):
        body = {"model": task, "text": prompt, "sampling_params": limits | params, "stream": stream}
        if stream:
            *_, last, end = [event async for event in events_of(client, "/generate", body)]
            assert end == "[DONE]"
            text = json.loads(last)["text"]
        else:
            text = (await ask(client, body))["text"]
        if "json_schema" in params:
            validate(json.loads(text), COUNT)
        elif "regex" in params:
            assert re.fullmatch(params["regex"], text)
        else:
            assert re.fullmatch("ab+", text)


@pytest.mark.parametrize("task", ["llama-a", "qwen3-b"])
@pytest.mark.parametrize("stream", [False, True])
async def test_constraints_hold_from_the_first_token_on(client: httpx.AsyncClient, task: str, stream: bool) -> None:
    """The first token is the prefill worker's, the others the decode worker's: both need the grammar."""
    await require_constraints(client, task, "?", stream=stream)


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_text_that_reads_like_events_arrives_whole(client: httpx.AsyncClient, answers: int) -> None:
    text = 'data: [DONE] "abort" data: {"error": 1} [DONE] data: '
    params = {"temperature": 1, "max_new_tokens": 200, "n": answers, "regex": re.escape(text)}
    before = await metric(client, "sun_requests_total", task="llama-a", outcome="ok")
    body = {"model": "llama-a", "text": "?", "sampling_params": params, "stream": True}
    *events, end = [event async for event in events_of(client, "/generate", body)]
    assert end == "[DONE]"
    last = {chunk.get("index", 0): chunk for chunk in map(json.loads, events)}
    assert [last[index]["text"] for index in range(answers)] == [text] * answers
    assert await metric(client, "sun_requests_total", task="llama-a", outcome="ok") == before + 1


# --- names and aborts -----------------------------------------------------------------------------------------------


async def test_clients_name_their_requests(client: httpx.AsyncClient) -> None:
    body = {"model": "llama-a", "input_ids": some_tokens(1060, 5), "sampling_params": greedy(2), "rid": "mine"}
    assert (await ask(client, body))["meta_info"]["id"] == "mine"
    listed = {**body, "input_ids": [some_tokens(1061, 5), some_tokens(1062, 5)], "rid": ["one", "two"]}
    assert [r["meta_info"]["id"] for r in await ask(client, listed)] == ["one", "two"]
    chat = {"model": "llama-a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "rid": "chat"}
    assert (await ask(client, chat, "/v1/chat/completions"))["id"] == "chat"
    nameless = await ask(client, {k: v for k, v in body.items() if k != "rid"})
    assert re.fullmatch("[0-9a-f]{32}", nameless["meta_info"]["id"])


@pytest.mark.parametrize("everything", [False, True])
async def test_an_abort_ends_a_request(client: httpx.AsyncClient, everything: bool) -> None:
    body = {"model": "llama-b", "input_ids": some_tokens(1063, 5), "sampling_params": greedy(1900), "rid": "long"}
    events = events_of(client, "/generate", body | {"stream": True})
    await anext(events)
    reply = await client.post("/abort_request", json={"abort_all": True} if everything else {"rid": "long"})
    assert reply.status_code == 200
    *_, last, end = [event async for event in events]
    assert end == "[DONE]"
    assert json.loads(last)["meta_info"]["finish_reason"]["type"] == "abort"
    assert json.loads(last)["meta_info"]["completion_tokens"] < 1900
    await wait_until(lambda: _none_in_flight(client), "no request in flight", within=SOON)


async def _none_in_flight(client: httpx.AsyncClient) -> bool:
    return await in_flight(client) == 0


# --- tasks ----------------------------------------------------------------------------------------------------------


async def test_the_header_names_the_task(client: httpx.AsyncClient, task_references: dict[str, Reference]) -> None:
    prompt = some_tokens(1070, 20)
    for model in (None, "llama-a"):  # the header wins
        body = {"input_ids": prompt, "sampling_params": greedy(8)} | ({"model": model} if model else {})
        reply = await client.post("/generate", json=body, headers={"X-Sun-Task": "llama-b"})
        assert reply.status_code == 200, reply.text
        task_references["llama-b"].check(prompt, reply.json()["output_ids"])
    nameless = await client.post("/generate", json={"input_ids": prompt})
    assert nameless.status_code == 400
    assert "X-Sun-Task" in nameless.json()["error"]["message"]
    unknown = await client.post("/generate", json={"input_ids": prompt}, headers={"X-Sun-Task": "nobody"})
    assert unknown.status_code == 404
    assert "llama-b" in unknown.json()["error"]["message"]


async def test_the_pages_about_tasks(client: httpx.AsyncClient, deployment: Deployment) -> None:
    page = (await client.get("/tasks")).json()
    assert page["ready"] is True
    task = page["tasks"]["qwen3-a"]
    assert task["ready"] is True
    assert task["in_flight"] == 0
    assert [w["name"] for w in task["decode"]["workers"]] == ["qwen3-base-0", "qwen3-base-1"]
    assert {w["url"] for w in task["decode"]["workers"]} == {
        deployment.process(f"qwen3-base-{i}").url for i in range(2)
    }
    assert {w["state"] for w in task["decode"]["workers"] + task["prefill"]["workers"]} == {"ready"}
    assert len(task["paths"]) == 2
    namespaces = {name: t["namespace"] for name, t in page["tasks"].items()}
    assert namespaces["llama-a"] == namespaces["stock"] != namespaces["llama-b"], "who shares a prefill pool shares it"
    models = (await client.get("/v1/models")).json()
    assert [m["id"] for m in models["data"]] == list(page["tasks"])
    assert (await client.get("/v1/models/qwen3-a")).json()["max_model_len"] == models["data"][0]["max_model_len"] > 2000


async def test_metrics_move(client: httpx.AsyncClient) -> None:
    async def figures() -> dict[str, float]:
        return {
            "requests": await metric(client, "sun_requests_total", task="pages", outcome="ok"),
            "prefill": await metric(client, "sun_leg_requests_total", task="pages", leg="prefill", outcome="ok"),
            "decode": await metric(client, "sun_leg_requests_total", task="pages", leg="decode", outcome="ok"),
            "prompt": await metric(client, "sun_tokens_total", task="pages", kind="prompt"),
            "completion": await metric(client, "sun_tokens_total", task="pages", kind="completion"),
            "cached": await metric(client, "sun_tokens_total", task="pages", kind="cached"),
            "ttft": await metric(client, "sun_time_to_first_token_seconds_count", task="pages"),
            "itl": await metric(client, "sun_inter_token_seconds_count", task="pages"),
        }

    prompt = some_tokens(1080, 50)
    before = await figures()
    await generate(client, "pages", prompt, 10, stream=True)
    cached = (await generate(client, "pages", prompt, 10, stream=True))["meta_info"]["cached_tokens"]
    assert cached == 48, "three whole pages of sixteen"

    async def settled() -> bool:
        return (await figures())["prefill"] == before["prefill"] + 2

    await wait_until(settled, "both prefill legs counted", within=SOON)
    moved = {name: value - before[name] for name, value in (await figures()).items()}
    assert moved == {
        "requests": 2,
        "prefill": 2,
        "decode": 2,
        "prompt": 100,
        "completion": 20,
        "cached": cached,
        "ttft": 2,
        "itl": 2,
    }
    assert await in_flight(client) == 0


async def test_usage_counts_cached_tokens(client: httpx.AsyncClient) -> None:
    prompt = some_tokens(1081, 64)
    # a namespace that no other request has: a prompt of another test may begin with the same token
    body = {"model": "llama-a", "prompt": prompt, "max_tokens": 3, "temperature": 0, "cache_salt": uuid4().hex}
    first, second = [(await ask(client, body, "/v1/completions"))["usage"] for _ in range(2)]
    assert cached_in(first) == 0
    assert cached_in(second) == 63, "the last token of a prompt is always computed"
    assert first["prompt_tokens"] == second["prompt_tokens"] == 64


async def test_usage_of_a_repeat_that_the_prefill_worker_computed_counts_no_cached_tokens(
    client: httpx.AsyncClient, deployment: Deployment
) -> None:
    """The decode worker still holds the prompt: the transfer was saved, and nothing of the computation."""
    prompt = some_tokens(1082, 64)
    body = {"model": "llama-a", "prompt": prompt, "max_tokens": 3, "temperature": 0, "cache_salt": uuid4().hex}
    for _ in range(2):
        reply = await client.post(f"{deployment.process('llama-a-0').url}/flush_cache", params={"timeout": 10})
        assert reply.status_code == 200, reply.text
        usage = (await ask(client, body, "/v1/completions"))["usage"]
        assert (cached_in(usage), usage["prompt_tokens"]) == (0, 64)
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    *_, last, end = [event async for event in events_of(client, "/v1/completions", asked)]
    assert end == "[DONE]"
    assert cached_in(json.loads(last)["usage"]) == 63
    generated = {"model": "llama-a", "input_ids": prompt, "cache_salt": body["cache_salt"]}
    meta = (await ask(client, generated | {"sampling_params": greedy(3)}))["meta_info"]
    assert (meta["cached_tokens"], meta["cached_tokens_details"]) == (63, {"device": 63, "host": 0, "decode": 64})


def cached_in(usage: dict[str, Any]) -> int:
    """Return the cached tokens of a usage; SGLang reports none as 0 or as null."""
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))


# --- what a client may not send --------------------------------------------------------------------------------------


async def test_fault_15_reserved_fields_are_refused(client: httpx.AsyncClient) -> None:
    body = {"model": "llama-a", "input_ids": some_tokens(1090, 5), "sampling_params": greedy(2)}
    before = await metric(client, "sun_leg_requests_total")
    for name, value in {
        "bootstrap_host": "2.2.2.2",  # in SGLang a transfer that never happens
        "bootstrap_port": 8998,
        "bootstrap_room": 1,
        "disagg_prefill_dp_rank": 0,
        "routed_dp_rank": 0,
        "lora_path": "other",
        "session_params": {"id": "x"},
    }.items():
        for path, question in (("/generate", body), ("/v1/completions", {"model": "llama-a", "prompt": "x"})):
            reply = await client.post(path, json=question | {name: value})
            assert reply.status_code == 400, f"{name} on {path}: {reply.text}"
            assert name in reply.json()["error"]["message"]
    assert await metric(client, "sun_leg_requests_total") == before, "nothing reached a worker"


async def test_a_path_that_is_none_and_a_method_that_is_wrong(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/nothing", json={})).status_code == 404
    assert (await client.get("/generate")).status_code == 405
    plain = await gather(*(client.post(p, content=b"x") for p in ("/generate", "/v1/chat/completions")))
    assert [r.status_code for r in plain] == [400, 400]
