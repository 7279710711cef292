"""Prompts that are too long and token ids that no model has, and when the router detects them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.errors import RequestError
from sun_sglang.router.deadlines import DEFAULT
from sun_sglang.router.health.card_reader import ProbeError
from sun_sglang.router.health.prober import SILENT_PROBES, count_silent
from sun_sglang.router.protocol.prompt_length import PromptLimits, check_token_ids, measure_prompt, needs_count
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_load import LONG_BODY_BYTES
from tests.unit.router.conftest import DEADLINES, PATIENCE_S, SMALL, SUN, Start, System, set_deadlines
from tests.unit.router.fake_worker import VOCAB, Fault

GENERATE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "x"}]
BOUND = {name: {"token_bytes": 10} for name in ("math-0", "tool-0", "base-0")}
# the fake workers take 1000 tokens: too long for 10 bytes a token
FAR_TOO_LONG = "abcd " * 2001
# between the bounds: more bytes than tokens, and not too many
UNDECIDED = "longword " * 200
BEYOND = 2147483647


def sent(system: System) -> int:
    return sum(len(worker.requests) for worker in system.workers.values())


# --- the lower bound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "field"), [(GENERATE, "text"), (COMPLETIONS, "prompt")])
async def test_a_prompt_over_the_lower_bound_is_refused_and_no_worker_is_asked(
    start: Start, path: str, field: str
) -> None:
    system = await start(SUN, {"math": 1, "tool": 1, "base": 1}, cards=BOUND)
    for text in (FAR_TOO_LONG, ["short", FAR_TOO_LONG]):
        status, reply = await system.post(path, {"model": "math", field: text})
        assert status == 400
        assert reply["error"]["code"] == "context_length_exceeded"
        message = reply["error"]["message"]
        assert "(more than 1000 tokens) is longer than the model's context length (1001 tokens)" in message
        assert "This model's maximum context length is 1001 tokens; task `math` takes at most 1000" in message
    assert not any(worker.counted or worker.requests for worker in system.workers.values())


@pytest.mark.parametrize("path", [COMPLETIONS, "/tokenize"])
async def test_prompt_of_megabytes_is_sent_to_the_tokenizer_in_pieces(small: System, path: str) -> None:
    """aiohttp warns of bytes that it copies in one step of the event loop, and a warning is an error here."""
    body = BytesIO(orjson.dumps({"model": "math", "prompt": "word " * 400_000}))
    async with small.client.post(path, data=body, headers={"Content-Type": "application/json"}) as r:
        assert (r.status, (await r.json())["error"]["code"]) == (400, "context_length_exceeded")
    assert not [e for e in small.events if e["event"] == "defect"]


async def test_one_card_without_a_bound_leaves_its_task_without_one(start: Start) -> None:
    system = await start(SUN, {"math": 1, "tool": 1, "base": 1}, cards={"math-0": {"token_bytes": 10}})
    assert system.router.registry.limit("math") == (1000, VOCAB, None)
    status, _ = await system.post(GENERATE, {"model": "math", "text": FAR_TOO_LONG})
    assert (status, len(system["math-0"].counted)) == (400, 1)


def test_a_chat_has_no_lower_bound_since_its_template_may_drop_text() -> None:
    size = measure_prompt(Endpoint.CHAT, {"messages": [{"role": "user", "content": "x" * 100_000}]})
    assert size is not None
    assert needs_count(size, PromptLimits(10, VOCAB, 4), "math")


def test_the_bounds_are_inclusive() -> None:
    limit = PromptLimits(100, VOCAB, 4)
    for text, counted in (("x" * 92, False), ("x" * 93, True), ("x" * 400, True)):
        size = measure_prompt(Endpoint.GENERATE, {"text": text})
        assert size is not None
        assert needs_count(size, limit, "math") == counted
    size = measure_prompt(Endpoint.GENERATE, {"text": "x" * 401})
    assert size is not None
    with pytest.raises(RequestError, match="more than 100 tokens"):
        needs_count(size, limit, "math")


# --- the worker that counts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [GENERATE, COMPLETIONS, CHAT])
async def test_a_count_that_does_not_come_refuses_the_request(small: System, path: str) -> None:
    set_deadlines(small.router.length_check, token_count=0.05)
    small["math-0"].silent_counts = True
    body = {
        GENERATE: {"text": UNDECIDED},
        COMPLETIONS: {"prompt": UNDECIDED},
        CHAT: {"messages": [{"role": "user", "content": UNDECIDED}]},
    }[path]
    for more in ({}, {"stream": True}):
        status, reply = await small.post(path, {"model": "math", **body, **more})
        assert (status, reply["error"]["code"]) == (503, "length_unknown")
        assert "may be over the 1000 tokens of task `math`" in reply["error"]["message"]
    assert sent(small) == 0
    assert small.router.registry.state("math-0") == "ready"


async def test_a_task_that_leaves_while_its_prompt_is_counted_answers_503(start: Start) -> None:
    system: System = await start(
        SUN, {"math": 1, "tool": 1, "base": 1}, router={"policy": {"prefill": "prefix_affinity"}}
    )
    system["math-0"].silent_counts = True
    asked = asyncio.create_task(system.post(GENERATE, {"model": "math", "text": UNDECIDED}))
    await wait_until(lambda: system["math-0"].counted)
    registry = system.router.registry
    tasks = {name: task for name, task in registry.fleet.tasks.items() if name != "math"}
    without = registry.fleet.model_copy(update={"tasks": tasks})
    registry.want(without)
    registry.serve(without)
    system["math-0"].go_on()
    status, reply = await asked
    assert (status, reply["error"]["code"]) == (503, "no_worker")


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_a_worker_that_cannot_count_refuses_the_request(small: System, status: int) -> None:
    small["math-0"].bad_count = status
    answered, reply = await small.post(GENERATE, {"model": "math", "text": UNDECIDED})
    assert (answered, reply["error"]["code"]) == (503, "length_unknown")
    assert sent(small) == 0


async def test_a_worker_is_asked_about_two_prompts_at_once_and_no_more(small: System) -> None:
    """Eight prompts wait for a worker that never answers, and it has received two of them."""
    worker = small["math-0"]
    worker.silent_counts = True
    body = {"model": "math", "text": UNDECIDED}
    asked = [asyncio.create_task(small.post(GENERATE, body)) for _ in range(8)]
    check = small.router.service._check_length
    await wait_until(lambda: check._pending["math-0"] == 8)  # type: ignore[attr-defined]  # its own queue
    await wait_until(lambda: len(worker.counted) == 2)
    # a request that needs no count goes ahead
    assert (await small.post(GENERATE, {"model": "math", "text": "hi"}))[0] == 200
    assert len(worker.counted) == 2
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


# --- token ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (GENERATE, {"input_ids": [1, BEYOND]}, "input_ids"),
        (GENERATE, {"input_ids": [[1], [2, VOCAB]]}, "input_ids"),
        (GENERATE, {"text": "x", "sampling_params": {"stop_token_ids": [BEYOND]}}, "sampling_params.stop_token_ids"),
        (
            GENERATE,
            {"text": ["x", "y"], "sampling_params": [{"max_new_tokens": 1}, {"stop_token_ids": [BEYOND]}]},
            "sampling_params.stop_token_ids",
        ),
        (GENERATE, {"text": "x", "sampling_params": {"logit_bias": {str(VOCAB): 1}}}, "sampling_params.logit_bias"),
        (GENERATE, {"text": "x", "return_logprob": True, "token_ids_logprob": [BEYOND]}, "token_ids_logprob"),
        (
            GENERATE,
            {"text": ["x", "y"], "return_logprob": True, "token_ids_logprob": [[1], [VOCAB]]},
            "token_ids_logprob",
        ),
        (COMPLETIONS, {"prompt": [1, VOCAB]}, "prompt"),
        (COMPLETIONS, {"prompt": [[1], [VOCAB]]}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "min_tokens": 1, "stop_token_ids": [BEYOND]}, "stop_token_ids"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {str(BEYOND): 1}}, "logit_bias"),
        (CHAT, {"messages": USER, "min_tokens": 1, "stop_token_ids": [BEYOND]}, "stop_token_ids"),
        (CHAT, {"messages": USER, "logit_bias": {str(VOCAB): 1}}, "logit_bias"),
        (CHAT, {"messages": USER, "input_ids": [VOCAB]}, "input_ids"),
    ],
)
async def test_a_token_id_beyond_the_vocabulary_is_refused_with_its_field(
    small: System, path: str, fields: dict[str, Any], name: str
) -> None:
    status, reply = await small.post(path, {"model": "math", **fields})
    assert (status, reply["error"]["param"]) == (400, name)
    assert f"`{name}` holds " in reply["error"]["message"]
    assert f"token ids go from 0 to {VOCAB - 1}" in reply["error"]["message"]
    assert sent(small) == 0


@pytest.mark.parametrize("key", ["0" * 11 + "9", "0" * 11 + "9" * 5000])
async def test_a_bias_for_a_token_id_of_many_digits_is_refused(small: System, key: str) -> None:
    """Python refuses to convert more than 4,300 digits."""
    status, reply = await small.post(COMPLETIONS, {"model": "math", "prompt": "x", "logit_bias": {key: 1}})
    assert (status, reply["error"]["param"]) == (400, "logit_bias")
    assert sent(small) == 0


@pytest.mark.parametrize("endpoint", Endpoint)
def test_least_tokens_with_most_of_the_vocabulary_as_stops_are_refused(endpoint: Endpoint) -> None:
    least = "min_new_tokens" if endpoint is Endpoint.GENERATE else "min_tokens"

    def check(params: dict[str, Any]) -> None:
        whole = {"sampling_params": params} if endpoint is Endpoint.GENERATE else params
        check_token_ids(endpoint, {"messages": USER, **whole}, PromptLimits(10, 100))

    check({"stop_token_ids": [*range(50)] * 2, least: 1})
    check({"stop_token_ids": [*range(100)], least: 0})
    with pytest.raises(RequestError, match="over half of the vocabulary"):
        check({"stop_token_ids": [*range(51)], least: 1})


def test_every_id_of_the_vocabulary_is_allowed_everywhere() -> None:
    last = VOCAB - 1
    params = {"stop_token_ids": [0, last], "logit_bias": {"0": 1, str(last): -1}}
    body = {"input_ids": [[0], [last]], "sampling_params": [params, {}], "token_ids_logprob": [[0], [last]]}
    check_token_ids(Endpoint.GENERATE, body, PromptLimits(10, VOCAB))
    check_token_ids(Endpoint.GENERATE, {"text": ["x"], "token_ids_logprob": [None, [last]]}, PromptLimits(10, VOCAB))
    check_token_ids(Endpoint.COMPLETIONS, {"prompt": ["a", "b"], **params}, PromptLimits(10, VOCAB))
    check_token_ids(
        Endpoint.CHAT, {"messages": USER, "stop_token_ids": None, "logit_bias": None}, PromptLimits(10, VOCAB)
    )


# --- while no pair is usable ----------------------------------------------------------------------------------------


async def test_a_request_is_checked_while_every_worker_is_gone(small: System) -> None:
    """The task was served: its limits are known, and do not change while its workers restart."""
    registry = small.router.registry
    await small["base-0"].stop()
    await wait_until(lambda: registry.unserved() == ["math", "tool"])
    for body in ({"input_ids": [999_999_999]}, {"input_ids": [1] * 1001}):
        status, reply = await small.post(GENERATE, {"model": "math", **body})
        assert status == 400, reply
    status, reply = await small.post(GENERATE, {"model": "math", "input_ids": [1]})
    assert (status, reply["error"]["code"]) == (503, "no_worker")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_came_before_any_worker_is_checked_when_one_is_there(start: Start, stream: bool) -> None:
    """No limit is known when it arrives; it waits for a pair, and is checked before dispatch."""
    system = await start(SUN, {"math": 1, "tool": 1, "base": 1}, wait=False)
    set_deadlines(system.router.dispatcher.recovery, recovery=PATIENCE_S)
    system["base-0"].canary_fault = Fault(status=500)
    await wait_until(lambda: system["base-0"].canaries > 0)
    assert system.router.registry.limit("math") is None
    bodies: list[dict[str, Any]] = [
        {"input_ids": [999_999_999]},
        {"input_ids": [1] * 1001},
        {"text": "a " * 1500},
        {"text": ["x", "a " * 1500]},
    ]
    asked = [asyncio.create_task(system.post(GENERATE, {"model": "math", "stream": stream, **body})) for body in bodies]
    await wait_until(lambda: len(system.router.in_flight.tickets) == 5)
    system["base-0"].canary_fault = None
    for status, reply in await asyncio.gather(*asked):
        assert status == 400, reply
    # at most the short prompt of the list
    assert all(body.get("text") == "x" for worker in system.workers.values() for _, body in worker.requests)
    assert (await system.post(GENERATE, {"model": "math", "input_ids": [1] * 1000}))[0] == 200


async def test_a_request_is_checked_again_where_its_workers_come_back_with_less(small: System) -> None:
    set_deadlines(small.router.dispatcher.recovery, recovery=PATIENCE_S)
    worker, registry = small["base-0"], small.router.registry
    await worker.stop()
    await wait_until(lambda: registry.unserved() == ["math", "tool"])
    ids = asyncio.create_task(small.post(GENERATE, {"model": "math", "input_ids": [40_000]}))
    long = asyncio.create_task(small.post(GENERATE, {"model": "tool", "input_ids": [1] * 900}))
    await wait_until(lambda: len(small.router.in_flight.tickets) == 2)
    worker.card_changes = {"max_input_tokens": 800}
    for name in ("math-0", "tool-0"):
        small[name].card_changes = {"identity": {"vocab_size": 30_000}}
        await small[name].restart()
    worker.card_changes |= {"identity": {"vocab_size": 30_000}}
    worker.restarts += 1
    await worker.start()
    status, reply = await ids
    assert (status, reply["error"]["param"]) == (400, "input_ids")
    assert "go from 0 to 29999" in reply["error"]["message"]
    status, reply = await long
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
    assert sent(small) == 0


# --- a worker that tokenizes ----------------------------------------------------------------------------------------


async def probe_quickly(system: System) -> None:
    """Shorten the limit of probes; those that began with a longer one are over when this returns."""
    set_deadlines(system.router.card_reader, probe=0.02)
    asked = {worker: worker.cards_asked for worker in system.workers.values()}
    await wait_until(lambda: all(worker.cards_asked >= before + 2 for worker, before in asked.items()))


async def test_a_worker_that_is_silent_after_a_long_prompt_stays_ready_until_it_has_had_time_to_read_it(
    start: Start,
) -> None:
    small: System = await start(SUN, SMALL, deadlines=replace(DEADLINES, tokenize_per_byte=1.0))
    await probe_quickly(small)
    text = ("x" * 1000 + " ") * 90
    assert (await small.post(GENERATE, {"model": "math", "text": text}))[0] == 200
    registry, workers = small.router.registry, (small["math-0"], small["base-0"])
    for worker in workers:
        worker.silent_cards, worker.cards_asked = True, 0
    await wait_until(lambda: all(worker.cards_asked > 2 * SILENT_PROBES for worker in workers))
    assert [registry.state(name) for name in ("math-0", "base-0")] == ["ready", "ready"]
    for name in ("math-0", "base-0"):
        registry.workers[name].load._tokenizing_until = float("-inf")
    await wait_until(lambda: [registry.state(name) for name in ("math-0", "base-0")] == ["absent", "absent"])
    assert registry.state("tool-0") == "registering"


async def test_a_worker_that_answers_requests_and_no_probes_stays_ready(small: System) -> None:
    await probe_quickly(small)
    registry, worker = small.router.registry, small["math-0"]
    registry.workers["math-0"].note_progress(float("inf"))
    worker.silent_cards, worker.cards_asked = True, 0
    await wait_until(lambda: worker.cards_asked > 2 * SILENT_PROBES)
    assert registry.state("math-0") == "ready"
    registry.workers["math-0"].note_progress(float("-inf"))
    await wait_until(lambda: registry.state("math-0") == "absent")


def test_a_worker_that_was_sent_long_prompts_is_excused_for_a_bounded_time() -> None:
    worker = Worker(FleetWorker(name="base-0", pool="base", url="http://h:1"), "decode")
    worker.load.note_body(LONG_BODY_BYTES - 1, 100.0)
    assert worker.load.tokenizing_until < 100.0
    worker.load.note_body(1_000_000, 100.0)
    assert worker.load.tokenizing_until == pytest.approx(104.0)
    worker.load.note_body(1_000_000, 101.0)
    assert worker.load.tokenizing_until == pytest.approx(108.0)
    for _ in range(100):
        worker.load.note_body(1_000_000, 102.0)
    assert worker.load.tokenizing_until == 102.0 + DEFAULT.tokenize_max


def test_silence_counts_only_while_a_worker_has_nothing_to_do() -> None:
    silent, broken = ProbeError("late", silent=True), ProbeError("refused")
    assert count_silent(1, silent, busy=True) == 1
    assert count_silent(1, silent, busy=False) == 2
    assert count_silent(0, broken, busy=True) == SILENT_PROBES
