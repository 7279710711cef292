"""`/v1/responses` and `/v1/messages`: the same two legs as the chat completion, in each client's own shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
import yaml
from anthropic.types import MessageParam

from sun_sglang.router.protocol.sse import event
from tests.unit.router.conftest import SMALL, SUN, Start, System
from tests.unit.router.fake_replies import prompt_of, spoken
from tests.unit.router.fake_worker import Fault, expected

CONVERSATION: list[MessageParam] = [{"role": "user", "content": "hi"}]
PROMPT = prompt_of("/v1/chat/completions", {"messages": CONVERSATION})
KEY = "alice-" + "a" * 20
PATHS = pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])


def answer(count: int = 4) -> str:
    """Return the text that a chat completion of the same conversation has."""
    return spoken(expected("w-math", "w-base", PROMPT, count))


def body_of(path: str, **more: Any) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"model": "math", "input": "hi", "max_output_tokens": 4, **more}
    return {"model": "math", "max_tokens": 4, "messages": CONVERSATION, **more}


async def read_events(system: System, path: str, **more: Any) -> list[dict[str, Any]]:
    async with system.client.post(path, json=body_of(path, stream=True, **more)) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        raw = (await response.read()).decode()
    return [orjson.loads(event.split("\n")[1].removeprefix("data: ")) for event in raw.split("\n\n")[:-1]]


@pytest.fixture
async def small(start: Start) -> System:
    system: System = await start(SUN, SMALL)
    return system


@pytest.fixture
async def openai_client(small: System) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{small.router.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(small: System) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=small.router.url, api_key="none", max_retries=0) as client:
        yield client


async def test_response_of_the_openai_client_equals_the_chat_completion(
    small: System, openai_client: openai.AsyncOpenAI
) -> None:
    response = await openai_client.responses.create(model="math", input="hi", max_output_tokens=4)
    assert response.output_text == answer()
    assert (response.status, response.model) == ("incomplete", "math")
    stream = await openai_client.responses.create(model="math", input="hi", max_output_tokens=4, stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer()
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.usage is not None
    assert response.usage is not None
    assert events[-1].response.usage.total_tokens == response.usage.total_tokens == len(PROMPT) + 4
    await small.quiet()
    assert small.metric("sun_requests_total", task="math", outcome="ok") == 2


async def test_message_of_the_anthropic_client_equals_the_chat_completion(
    small: System, claude: anthropic.AsyncAnthropic
) -> None:
    message = await claude.messages.create(model="math", max_tokens=4, messages=CONVERSATION)
    assert [block.model_dump()["text"] for block in message.content] == [answer()]
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 4)
    async with claude.messages.stream(model="math", max_tokens=4, messages=CONVERSATION) as stream:
        final = await stream.get_final_message()
    assert [block.model_dump()["text"] for block in final.content] == [answer()]
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 4)
    await small.quiet()


@PATHS
async def test_legs_carry_the_fields_of_a_chat_completion(small: System, path: str) -> None:
    await small.post(path, body_of(path))
    sent = [(where, body) for w in small.workers.values() for where, body in w.requests if "max" in str(sorted(body))]
    assert {where for where, _ in sent} == {"/v1/chat/completions"}
    assert all("input" not in body and body["messages"] == CONVERSATION for _, body in sent)
    assert len({body["bootstrap_room"] for _, body in sent}) == len(sent) // 2


@PATHS
async def test_stream_that_breaks_ends_with_the_apis_own_error(small: System, path: str) -> None:
    small["base-0"].fault = Fault(error_after=2)
    last = (await read_events(small, path))[-1]
    if path == "/v1/messages":
        assert (last["type"], last["error"]["type"]) == ("error", "api_error")
        assert "made to fail" in last["error"]["message"]
    else:
        assert last["type"] == "response.failed"
        assert "made to fail" in last["response"]["error"]["message"]
    await small.quiet()


@PATHS
async def test_stream_that_cannot_be_translated_ends_at_once_and_blames_no_worker(small: System, path: str) -> None:
    """The worker would go on: what it sends after the error is work for nobody."""
    arguments = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]}
    small["base-0"].fault = Fault(writes=(event({"id": "a", "choices": []}), event(arguments)), hang_after=0)
    assert "arguments of call 0" in orjson.dumps((await read_events(small, path))[-1]).decode()
    await small.quiet()
    assert small["base-0"].aborts
    assert small.metric("sun_requests_total", task="math", outcome="failed") == 1
    small["base-0"].fault = None
    assert (await read_events(small, path))[-1]["type"] in ("message_stop", "response.incomplete")


@pytest.mark.parametrize("path", ["/v1/messagesx", "/v1/messages-batches", "/v1/message"])
async def test_path_that_only_begins_like_messages_has_openais_errors(small: System, path: str) -> None:
    status, reply = await small.post(path, {})
    assert (status, reply["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("more", "status", "kind"),
    [
        ({"model": "nope"}, 404, "not_found_error"),
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"lora_path": "x"}, 400, "invalid_request_error"),
    ],
)
async def test_messages_error_has_anthropics_shape(small: System, more: dict[str, Any], status: int, kind: str) -> None:
    path = "/v1/messages"
    async with small.client.post(path, json=body_of(path, **more), headers={"X-Request-Id": "r-1"}) as response:
        error = orjson.loads(await response.read())
        assert response.status == status
        assert response.headers["X-Request-Id"] == error["request_id"] == "r-1"
    assert (error["type"], error["error"]["type"]) == ("error", kind)


async def test_responses_error_has_openais_shape(small: System) -> None:
    status, reply = await small.post("/v1/responses", body_of("/v1/responses", previous_response_id="resp_1"))
    assert status == 400
    assert reply["error"]["param"] == "previous_response_id"
    assert small.metric("sun_requests_total", task="unknown", outcome="refused") == 1


async def test_claude_client_sends_its_key_as_x_api_key(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [{"name": "alice", "key": KEY, "tasks": ["math"]}]}))
    system: System = await start(SUN, SMALL, router={"api_keys": str(file)})
    for key, tasks, error in (
        (KEY, "math", None),
        ("wrong", "math", anthropic.AuthenticationError),
        (KEY, "tool", anthropic.NotFoundError),
    ):
        async with anthropic.AsyncAnthropic(base_url=system.router.url, api_key=key, max_retries=0) as client:
            if error is None:
                await client.messages.create(model=tasks, max_tokens=4, messages=CONVERSATION)
            else:
                with pytest.raises(error):
                    await client.messages.create(model=tasks, max_tokens=4, messages=CONVERSATION)


JSON = {"Content-Type": "application/json"}
MESSAGES = "/v1/messages"


@pytest.mark.parametrize(
    ("method", "path", "headers", "raw", "status", "kind"),
    [
        ("POST", MESSAGES, JSON, b"{", 400, "invalid_request_error"),
        ("POST", f"{MESSAGES}/", JSON, b"[]", 400, "invalid_request_error"),
        ("POST", MESSAGES, {"Content-Type": "text/plain"}, b"{}", 400, "invalid_request_error"),
        ("POST", f"{MESSAGES}/batches", JSON, b"{}", 404, "not_found_error"),
        ("GET", MESSAGES, {}, b"", 405, "invalid_request_error"),
        ("POST", MESSAGES, JSON, b" " * 12_000, 413, "request_too_large"),
        ("POST", f"{MESSAGES}/count_tokens", JSON, b" " * 12_000, 413, "request_too_large"),
        ("POST", f"{MESSAGES}/count_tokens", JSON, b'{"model": "math"}', 400, "invalid_request_error"),
        ("POST", f"{MESSAGES}/count_tokens", JSON, b'{"model": "nope", "messages": []}', 400, "invalid_request_error"),
        ("POST", MESSAGES, {**JSON, "Content-Encoding": "gzip"}, b"{}", 415, "invalid_request_error"),
    ],
)
async def test_every_refusal_below_messages_has_anthropics_shape(
    start: Start, method: str, path: str, headers: dict[str, str], raw: bytes, status: int, kind: str
) -> None:
    system: System = await start(SUN, SMALL, router={"max_body_mb": 0.01})
    async with system.client.request(method, path, headers=headers, data=raw or None) as response:
        error = orjson.loads(await response.read())
    assert (response.status, error["type"], error["error"]["type"]) == (status, "error", kind)


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (Fault(status=400, body=b'{"object": "error", "message": "made to fail"}'), 400, "invalid_request_error"),
        (Fault(status=500), 502, "api_error"),
        (Fault(writes=(b'data: {"id": "a", "choices": "x"}\n\n',)), 502, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failure_of_a_worker_has_anthropics_shape(
    small: System, fault: Fault, status: int, kind: str, stream: bool
) -> None:
    small["base-0"].fault = fault
    async with small.client.post(MESSAGES, json=body_of(MESSAGES, stream=stream)) as response:
        raw = await response.read()
    is_stream = response.content_type == "text/event-stream"
    error = orjson.loads(raw.rpartition(b"\ndata: ")[2] if is_stream else raw)
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert response.status in (status, 200 if stream else status)
    await small.quiet()


async def test_messages_to_a_task_without_workers_is_overloaded(start: Start) -> None:
    system: System = await start(SUN, {"math": 0, "tool": 1, "base": 1}, wait=False)
    async with system.client.post(MESSAGES, json=body_of(MESSAGES)) as response:
        error = orjson.loads(await response.read())
    assert (response.status, error["error"]["type"]) == (503, "overloaded_error")
