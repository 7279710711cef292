from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from tests.unit.router.conftest import SUN, Start, System
from tests.unit.router.fake_replies import spoken
from tests.unit.router.fake_worker import Fault, expected

PROMPT = [11, 12, 13]


def ids_of(text: str) -> list[int]:
    return [ord(c) for c in text]


async def test_generate_is_prefilled_by_the_task_and_decoded_by_the_shared_pool(sun: System) -> None:
    for task in ("math", "tool"):
        body = {"model": task, "input_ids": PROMPT, "sampling_params": {"max_new_tokens": 5}}
        status, reply = await sun.post("/generate", body)
        assert status == 200
        assert reply["output_ids"] == expected(f"w-{task}", "w-base", PROMPT, 5)
        assert reply["meta_info"]["prompt_tokens"] == 3
    await sun.quiet()


@pytest.mark.invariant("I7")
async def test_both_legs_carry_one_room_one_rid_and_the_same_namespace(small: System) -> None:
    await small.post("/generate", {"model": "math", "text": "hi"})
    ((_, prefill),), ((_, decode),) = small["math-0"].requests, small["base-0"].requests
    for name in ("rid", "bootstrap_room", "bootstrap_host", "bootstrap_port", "extra_key", "text"):
        assert prefill[name] == decode[name]
    assert prefill["extra_key"] == "math@w-math"
    assert (prefill["bootstrap_host"], prefill["bootstrap_port"]) == ("127.0.0.1", 9000)
    assert len(prefill["rid"]) == 32


async def test_the_header_names_the_task_and_wins_over_the_model(small: System) -> None:
    body = {"model": "math", "input_ids": PROMPT}
    _, reply = await small.post("/generate", body, headers={"X-Sun-Task": "tool"})
    assert reply["output_ids"] == expected("w-tool", "w-base", PROMPT, 4)
    _, reply = await small.post("/v1/completions", {"model": "math", "prompt": PROMPT}, headers={"X-Sun-Task": "tool"})
    assert reply["model"] == "tool"


async def test_completions_and_chat_show_the_task_as_model(small: System) -> None:
    _, done = await small.post("/v1/completions", {"model": "math", "prompt": "hi", "max_tokens": 3})
    assert done["model"] == "math"
    assert done["choices"][0]["text"] == spoken(expected("w-math", "w-base", ids_of("hi"), 3))
    _, chat = await small.post(
        "/v1/chat/completions", {"model": "tool", "messages": [{"role": "user", "content": "x"}]}
    )
    assert chat["model"] == "tool"
    assert chat["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("usage", [None, False, True])
async def test_a_stream_ends_with_done_and_shows_usage_only_where_asked(
    small: System, path: str, usage: bool | None
) -> None:
    body: dict[str, Any] = {"model": "math", "prompt": "hi", "messages": [{"role": "user", "content": "x"}]}
    body |= {"stream": True, "max_tokens": 5}
    if usage is not None:
        body["stream_options"] = {"include_usage": usage}
    events = await small.events_of(path, body)
    assert events[-1] == "[DONE]"
    # five tokens; a chat's role and finish reason have events of their own
    assert len([e for e in events[:-1] if e["choices"]]) == (5 if path == "/v1/completions" else 7)
    assert [e["usage"]["completion_tokens"] for e in events[:-1] if not e["choices"]] == ([5] if usage else [])
    await small.quiet()
    assert small.metric("sun_tokens_total", task="math", kind="completion") == 5


async def test_a_generate_stream_is_cumulative_as_the_worker_made_it(small: System) -> None:
    events = await small.events_of("/generate", {"model": "math", "input_ids": PROMPT, "stream": True})
    tokens = expected("w-math", "w-base", PROMPT, 4)
    assert [e["output_ids"] for e in events[:-1]] == [tokens[:i] for i in range(1, 5)]
    await small.quiet()
    assert small.metric("sun_tokens_total", task="math", kind="completion") == 4
    assert small.metric("sun_time_to_first_token_seconds_count", task="math") == 1


async def test_a_task_whose_name_holds_a_colon_is_not_taken_for_an_adapter(start: Start) -> None:
    system: System = await start({"qa:v2": ("qa", "base")}, {"qa": 1, "base": 1})
    _, reply = await system.post("/v1/completions", {"model": "qa:v2", "prompt": "hi"})
    assert reply["model"] == "qa:v2"
    events = await system.events_of("/v1/completions", {"model": "qa:v2", "prompt": "hi", "stream": True})
    assert {e["model"] for e in events[:-1]} == {"qa:v2"}
    assert all(":" not in body["model"] for _, body in system["qa-0"].requests)


async def test_the_only_task_needs_no_name(start: Start) -> None:
    system: System = await start({"solo": ("p", "d")}, {"p": 1, "d": 1})
    for body in ({}, {"model": "default"}, {"model": None}):
        status, _ = await system.post("/generate", {"text": "hi", **body})
        assert status == 200


async def test_input_logprobs_come_from_prefill_and_output_logprobs_from_decode(small: System) -> None:
    body = {"model": "math", "input_ids": PROMPT, "return_logprob": True, "logprob_start_len": 1}
    tokens = expected("w-math", "w-base", PROMPT, 4)
    _, reply = await small.post("/generate", body)
    assert [e[1] for e in reply["meta_info"]["input_token_logprobs"]] == PROMPT[1:]
    assert [e[1] for e in reply["meta_info"]["output_token_logprobs"]] == tokens
    body = {"model": "math", "prompt": "hi", "echo": True, "logprobs": 1, "max_tokens": 2}
    _, reply = await small.post("/v1/completions", body)
    out = expected("w-math", "w-base", ids_of("hi"), 2)
    logprobs = reply["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [f"in{t}" for t in ids_of("hi")] + [f"out{t}" for t in out]
    assert len(logprobs["top_logprobs"]) == len(logprobs["token_logprobs"]) == 4


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_streams_input_logprobs_come_with_its_first_and_its_last_cumulative_event(
    small: System, answers: int
) -> None:
    params = {"max_new_tokens": 5, "n": answers}
    body = {"input_ids": PROMPT, "return_logprob": True, "logprob_start_len": 1, "sampling_params": params}
    events = await small.events_of("/generate", {"model": "math", "stream": True, **body})
    for index in range(answers):
        metas = [e["meta_info"] for e in events[:-1] if e.get("index", 0) == index]
        given = [[e[1] for e in meta["input_token_logprobs"]] for meta in metas]
        assert given == [PROMPT[1:], [], [], [], PROMPT[1:]]
        assert [len(meta["output_token_logprobs"]) for meta in metas] == [1, 2, 3, 4, 5]


def rows_of_ids(reply: dict[str, Any]) -> list[list[tuple[float, int]]]:
    return [[(value, token) for value, token, _ in row] for row in reply["meta_info"]["output_token_ids_logprobs"]]


@pytest.mark.parametrize("more", [{}, {"logprob_start_len": 1}], ids=["answer", "prompt-too"])
@pytest.mark.parametrize("answers", [1, 2])
async def test_logprobs_of_chosen_ids_have_the_prefill_workers_row_for_the_first_token(
    small: System, answers: int, more: dict[str, Any]
) -> None:
    params = {"max_new_tokens": 3, "n": answers}
    body = {"input_ids": PROMPT, "return_logprob": True, "token_ids_logprob": [8, 9], "sampling_params": params}
    expected_rows = [[(-float(place), 8), (-float(place), 9)] for place in range(3)]
    _, reply = await small.post("/generate", {"model": "math", **body, **more})
    for one in reply if answers > 1 else [reply]:
        assert rows_of_ids(one) == expected_rows
    *events, end = await small.events_of("/generate", {"model": "math", "stream": True, **body, **more})
    assert end == "[DONE]"
    for index in range(answers):
        given = [rows_of_ids(event) for event in events if event.get("index", 0) == index]
        assert given == [expected_rows[:1], expected_rows[:2], expected_rows]


async def test_logprobs_of_chosen_ids_in_a_list_are_each_prompts_own(small: System) -> None:
    body = {
        "input_ids": [PROMPT, PROMPT],
        "return_logprob": True,
        "token_ids_logprob": [[8], None],
        "sampling_params": {"max_new_tokens": 2},
    }
    _, (first, second) = await small.post("/generate", {"model": "math", **body})
    assert rows_of_ids(first) == [[(-0.0, 8)], [(-1.0, 8)]]
    assert "output_token_ids_logprobs" not in second["meta_info"]


async def test_prefill_worker_that_fails_fails_an_answer_with_logprobs_of_chosen_ids(small: System) -> None:
    """The decode worker alone has no row for the first token."""
    small["math-0"].fault = Fault(status=500)
    body = {"input_ids": PROMPT, "return_logprob": True, "token_ids_logprob": [8]}
    status, reply = await small.post("/generate", {"model": "math", **body})
    assert (status, reply["error"]["code"]) == (502, "prefill_failed")


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_streams_echoed_logprobs_come_with_its_first_event(small: System, answers: int) -> None:
    body = {"prompt": "hi", "echo": True, "logprobs": 1, "max_tokens": 3, "n": answers}
    events = await small.events_of("/v1/completions", {"model": "math", "stream": True, **body})
    out = [f"out{t}" for t in expected("w-math", "w-base", ids_of("hi"), 3)]
    for index in range(answers):
        choices = [c for e in events[:-1] for c in e["choices"] if c["index"] == index]
        given = [choice["logprobs"]["tokens"] for choice in choices]
        assert given == [[f"in{t}" for t in ids_of("hi")] + out[:1], out[1:2], out[2:]]


async def test_replies_carry_the_clients_own_rid(small: System) -> None:
    _, reply = await small.post("/generate", {"model": "math", "text": "hi", "rid": "mine"})
    assert reply["meta_info"]["id"] == "mine"
    _, reply = await small.post("/v1/completions", {"model": "math", "prompt": "hi", "rid": 'a"b'})
    assert reply["id"] == 'a"b'
    events = await small.events_of("/generate", {"model": "math", "text": "hi", "rid": "mine", "stream": True})
    assert {e["meta_info"]["id"] for e in events[:-1]} == {"mine"}
    assert not any(body["rid"] in ("mine", 'a"b') for _, body in small["math-0"].requests)


async def test_everything_else_of_the_body_reaches_both_workers(small: System) -> None:
    extras = {
        "stop": ["x"],
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "min_p": 0.1,
        "seed": 1,
    }
    body = {"model": "math", "messages": [{"role": "user", "content": "x"}], **extras}
    status, _ = await small.post("/v1/chat/completions", body)
    assert status == 200
    for worker in ("math-0", "base-0"):
        sent = small[worker].requests[-1][1]
        assert {k: sent[k] for k in extras} == extras


async def test_large_bodies_pass(small: System) -> None:
    body = orjson.dumps({"model": "math", "input_ids": PROMPT, "custom_labels": {"x": "y" * (3 << 20)}})
    headers = {"Content-Type": "application/json"}
    async with small.client.post("/generate", data=io.BytesIO(body), headers=headers) as r:
        reply = await r.json()
    assert reply["output_ids"] == expected("w-math", "w-base", PROMPT, 4)


async def test_load_spreads_over_all_workers(sun: System) -> None:
    for _ in range(8):
        await sun.post("/generate", {"model": "math", "text": "hi"})
        # a prefill leg may end after its answer, and what is left of it counts as load
        await sun.quiet()
    assert [len(sun[w].requests) for w in ("math-0", "math-1", "base-0", "base-1")] == [4, 4, 4, 4]


async def test_questions_about_the_fleet(small: System) -> None:
    assert (await small.get("/health"))[0] == 200
    assert (await small.get("/health_generate"))[0] == 200
    _, models = await small.get("/v1/models")
    assert [m["id"] for m in models["data"]] == ["math", "tool"]
    assert models["data"][0]["max_model_len"] == 1001
    assert (await small.get("/v1/models/tool"))[1]["id"] == "tool"
    assert (await small.get("/v1/models/none"))[0] == 404
    for path in ("/model_info", "/get_model_info"):
        _, info = await small.get(path)
        assert (info["tokenizer_path"], info["served_model_name"]) == ("tok", "math")
    assert (await small.get("/model_info?model=tool"))[1]["model_path"] == "w-tool"
    for path in ("/server_info", "/get_server_info"):
        _, info = await small.get(path)
        assert info["decode"][0]["internal_states"] == [{"w": "w-base"}]
        assert [p["worker"] for p in info["prefill"]] == ["math-0", "tool-0"]
        assert "s3cret" not in str(info)
    async with small.client.post("/flush_cache", params={"timeout": "1"}) as r:
        assert r.status == 200
    assert [w.flushes for w in small.workers.values()] == [1, 1, 1]
    async with small.client.get("/metrics") as r:
        page = await r.text()
    assert 'sun_worker_state{pool="base",role="decode",state="ready",worker="base-0"} 1.0' in page
    assert (await small.get("/nothing"))[0] == 404
    assert (await small.get("/generate"))[0] == 405


async def test_tasks_show_workers_paths_and_namespaces(small: System) -> None:
    _, tasks = await small.get("/tasks")
    assert tasks["ready"] is True
    math = tasks["tasks"]["math"]
    assert math["namespace"] == "math@w-math"
    assert math["paths"] == [{"prefill": "math-0", "decode": "base-0"}]
    base = small["base-0"]
    assert math["decode"]["workers"] == [
        {
            "name": "base-0",
            "url": base.url,
            "incarnation": base.card["incarnation"],
            "state": "ready",
            "reason": "",
            "in_flight": 0,
            "tokens": 0,
            "steps": None,
            "modules": None,
            "agreed": True,
        }
    ]


@pytest.mark.invariant("I1")
async def test_outcomes_are_counted_once_a_request(small: System) -> None:
    await small.post("/generate", {"model": "math", "text": "hi"})
    await small.events_of("/generate", {"model": "math", "text": "hi", "stream": True})
    await small.post("/v1/completions", {"model": "math", "prompt": "hi", "n": 3})
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="ok") == 3
    assert small.metric("sun_leg_requests_total", task="math", leg="prefill", outcome="ok") == 5
    assert small.metric("sun_leg_requests_total", task="math", leg="decode", outcome="ok") == 5
    assert small.metric("sun_leg_in_flight", task="math", leg="decode") == 0
    assert small.metric("sun_in_flight", task="math") == 0
    assert small.metric("sun_tokens_total", task="math", kind="completion") == 20
    assert small.metric("sun_tokens_total", task="math", kind="cached") == 1 + 1


async def test_connections_are_used_again(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1})
    for _ in range(5):
        await system.events_of("/generate", {"model": "math", "text": "hi", "stream": True})
        await system.quiet()
    # the two canaries at the start may have had two each; nothing since needed more
    assert 2 <= system.router.dispatcher.client.pool.idle_count <= 4
