"""A prompt for several answers: the first prefill puts it into a worker's cache, and the others find it there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.shared_prompt import SAVED_TOKENS, SharedPrompt
from sun_sglang.router.errors import ApiError
from tests.unit.router.conftest import SMALL, SUN, Start, System
from tests.unit.router.fake_worker import Fault, expected
from tests.unit.router.math_requests import only_once
from tests.unit.router.registries import card

ANSWERS = 4
# one token more than is saved: the last one of a prompt is always computed
LONG = list(range(1, SAVED_TOKENS // (ANSWERS - 1) + 3))
SHORT = LONG[:-2]
SMALL_NAMES = ("math-0", "base-0", "tool-0")


def body(prompt: Any = LONG, n: int = ANSWERS, **more: Any) -> dict[str, Any]:
    return {"model": "math", "input_ids": prompt, "sampling_params": {"max_new_tokens": 3, "n": n}, **more}


def prefills(system: System) -> list[int]:
    return [len(system[name].requests) for name in ("math-0", "math-1")]


def cached(replies: list[Any]) -> list[int]:
    return sorted(reply["meta_info"]["cached_tokens"] for reply in replies)


async def held(system: System) -> tuple[asyncio.Event, Fault]:
    """Make the prefill workers wait for an event with everything that they do."""
    go_on = asyncio.Event()
    fault = Fault(wait=go_on)
    for worker in system.workers.values():
        if worker.role == "prefill":
            worker.fault = fault
    return go_on, fault


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_for_several_answers_is_computed_once_on_one_worker(sun: System, stream: bool) -> None:
    if stream:
        events = await sun.events_of("/generate", body(stream=True))
        replies = list({event["index"]: event for event in events[:-1]}.values())
    else:
        status, replies = await sun.post("/generate", body())
        assert status == 200
    assert cached(replies) == [0, *[len(LONG) - 1] * (ANSWERS - 1)]
    assert {tuple(reply["output_ids"]) for reply in replies} == {tuple(expected("w-math", "w-base", LONG, 3))}
    assert sorted(prefills(sun)) == [0, ANSWERS]
    assert all(sun[name].requests for name in ("base-0", "base-1")), "the policy selects the decode workers"
    only_once(sun)
    await sun.quiet()


async def test_usage_of_several_answers_counts_the_first_prefills_hits(small: System) -> None:
    asked = {"model": "math", "prompt": LONG, "n": ANSWERS, "max_tokens": 2}
    for hits in (0, len(LONG) - 1):
        status, reply = await small.post("/v1/completions", asked)
        assert status == 200
        assert reply["usage"]["prompt_tokens"] == len(LONG)
        assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": hits}


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        (body(), True),
        (body(SHORT), False),
        (body(return_logprob=True, logprob_start_len=0), False),
        (body([LONG, LONG, LONG, LONG], 1), True),
        (body([[*LONG, i] for i in range(ANSWERS)], 1), False),
        (body([LONG] * ANSWERS, 1, extra_key=list("abcd")), False),
    ],
    ids=["n", "short", "prompt-logprobs", "equal-list", "other-prompts", "other-namespaces"],
)
async def test_answers_wait_for_a_prefill_only_if_it_saves_enough(
    small: System, asked: dict[str, Any], waits: bool
) -> None:
    go_on, _ = await held(small)
    asking = asyncio.create_task(small.post("/generate", asked))
    # all legs that start at once are sent in one step
    await wait_until(
        lambda: len(small["math-0"].requests) == len(small["base-0"].requests) == (1 if waits else ANSWERS)
    )
    go_on.set()
    assert (await asking)[0] == 200
    assert len(small["math-0"].requests) == ANSWERS
    await small.quiet()


@pytest.mark.parametrize(
    "changes", [{"caches_prompts": False}, {"identity": {"page_size": 256}}], ids=["no-cache", "pages-over-the-prompt"]
)
async def test_answers_do_not_wait_for_a_prefill_that_no_cache_keeps(start: Start, changes: dict[str, Any]) -> None:
    cards = dict.fromkeys(SMALL_NAMES, changes)
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, cards=cards)
    go_on, _ = await held(system)
    asking = asyncio.create_task(system.post("/generate", body()))
    await wait_until(lambda: len(system["math-0"].requests) == ANSWERS)
    assert system.router.registry.workers["math-0"].load.total_tokens == ANSWERS * len(LONG)
    go_on.set()
    assert (await asking)[0] == 200
    await system.quiet()


def booked(system: System) -> dict[str, int]:
    workers = system.router.registry.workers.values()
    return {worker.name: worker.load.total_tokens for worker in workers if worker.role == "prefill"}


@pytest.mark.parametrize("page", [1, 16])
async def test_later_answers_are_booked_with_the_tokens_that_their_worker_computes(start: Start, page: int) -> None:
    cards = {name: {"identity": {"page_size": page}} for name in SMALL_NAMES}
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, cards=cards)
    prompt = [*range(1, 400)]
    first, others = asyncio.Event(), asyncio.Event()
    system["math-0"].fault = Fault(wait=first)
    asking = asyncio.create_task(system.post("/generate", body(prompt)))
    await wait_until(lambda: system["math-0"].requests)
    assert booked(system)["math-0"] == len(prompt)
    system["math-0"].fault = Fault(wait=others)
    first.set()
    await wait_until(lambda: len(system["math-0"].requests) == ANSWERS)
    await wait_until(lambda: booked(system)["math-0"] == (ANSWERS - 1) * ((len(prompt) - 1) % page + 1))
    others.set()
    assert (await asking)[0] == 200
    await system.quiet()


async def test_later_answers_are_booked_whole_on_another_worker_after_the_first_one_left(start: Start) -> None:
    system: System = await start(SUN, {"math": 2, "tool": 1, "base": 1}, router={"max_requests": 1})
    go_on, _ = await held(system)
    asking = asyncio.create_task(system.post("/generate", body()))
    await wait_until(lambda: sum(prefills(system)) == 1)
    first, other = ("math-0", "math-1") if system["math-0"].requests else ("math-1", "math-0")
    system.router.registry.drain(first)
    system[other].fault = Fault(wait=(blocked := asyncio.Event()))
    go_on.set()
    await wait_until(lambda: system[other].requests)
    assert booked(system)[other] == len(LONG)
    blocked.set()
    status, replies = await asking
    assert status == 200
    assert cached(replies) == [0, 0, *[len(LONG) - 1] * (ANSWERS - 2)], "the other worker has the prompt then"
    await system.quiet()


async def test_chat_for_several_answers_waits_for_one_prefill(small: System) -> None:
    go_on, _ = await held(small)
    asked = {"model": "math", "messages": [{"role": "user", "content": "long " * SAVED_TOKENS}], "n": 2}
    asking = asyncio.create_task(small.post("/v1/chat/completions", asked))
    await wait_until(lambda: small["math-0"].requests and small["base-0"].requests)
    go_on.set()
    status, reply = await asking
    assert (status, len(reply["choices"])) == (200, 2)
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_first_prefill_that_fails_is_retried_and_the_others_follow_to_its_worker(sun: System) -> None:
    sun["math-0"].fault = sun["math-1"].fault = Fault(status=500, times=1)
    status, replies = await sun.post("/generate", body())
    assert status == 200
    assert sorted(prefills(sun)) == [1, ANSWERS], "no other answer goes to the worker that failed"
    assert cached(replies) == [0, *[len(LONG) - 1] * (ANSWERS - 1)]
    await sun.quiet()


@pytest.mark.parametrize("stream", [False, True])
async def test_first_answer_that_fails_ends_the_request_and_the_others_are_not_sent(
    small: System, stream: bool
) -> None:
    small["math-0"].fault = Fault(status=500)
    status, reply = await small.post("/generate", body(stream=stream))
    assert (status, reply["error"]["code"]) == (502, "prefill_failed")
    assert len(small["math-0"].requests) == 2, "one attempt and one retry of the first answer"
    await small.quiet()


async def test_client_that_leaves_before_the_first_prefill_ends_all_answers(small: System) -> None:
    small["math-0"].fault = Fault(hang=True)
    asking = asyncio.create_task(small.post("/generate", body()))
    await wait_until(lambda: small["math-0"].running)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await small.quiet()
    assert len(small["math-0"].requests) == len(small["base-0"].requests) == 1


@pytest.mark.parametrize("rid", ["mine", "mine_2"], ids=["of-all", "of-one-that-waits"])
async def test_abort_before_the_first_prefill_ends_the_wait(small: System, rid: str) -> None:
    small["math-0"].fault = Fault(hang=True)
    asking = asyncio.create_task(small.post("/generate", body(rid="mine")))
    await wait_until(lambda: small["math-0"].running)
    await small.post("/abort_request", {"rid": rid})
    status, reply = await asking
    assert (status, reply["error"]["code"]) == (400, "aborted")
    assert len(small["math-0"].requests) == 1
    await small.quiet()


async def test_answers_with_one_slot_for_all_are_served_one_after_the_other(start: Start) -> None:
    system: System = await start(SUN, SMALL, router={"max_requests": 1})
    blocked = await held(system)
    asking = [asyncio.create_task(system.post("/generate", body([*LONG, i]))) for i in range(3)]
    await wait_until(lambda: system.metric("sun_queued", task="math") == 3 * ANSWERS - 1)
    blocked[0].set()
    for status, replies in await asyncio.gather(*asking):
        assert status == 200
        assert cached(replies) == [0, *[len(LONG)] * (ANSWERS - 1)]
    await system.quiet()


async def test_shutdown_before_the_first_prefill_ends_all_answers_with_an_error(small: System) -> None:
    small["math-0"].fault = Fault(hang=True)
    asking = asyncio.create_task(small.post("/generate", body()))
    await wait_until(lambda: small["math-0"].running)
    small.router.dispatcher.cut_all("the router stops")
    assert (await asking)[0] == 502
    assert len(small["math-0"].requests) == 1


class Dispatch:
    """A dispatcher whose responses a test sets: for each holder, the future that `dispatch` awaits."""

    def __init__(self, **card: Any) -> None:
        self.card = card
        self.sent: list[str] = []
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def dispatch(self, request: Any, ticket: Any) -> str:
        self.sent.append(request.holder)
        worker = SimpleNamespace(card=card("prefill", **self.card))
        ticket.tries.append(SimpleNamespace(pair=SimpleNamespace(prefill=worker), incarnations={"prefill": "p7"}))
        if not request.holder:
            await self.first
        return "a response"


class Single:
    """The part of a request that a shared prompt reads."""

    def __init__(self, holder: str = "") -> None:
        self.holder = holder

    def sharing(self, group: int, holder: str) -> Single:
        return Single(holder)


async def share(shared: SharedPrompt, dispatch: Dispatch) -> Any:
    return await shared.dispatch(cast(Dispatcher, dispatch), cast(Any, Single()), Ticket("math", None, 0.0))


async def test_first_bytes_of_the_first_answer_start_the_others_without_a_reply_of_its_prefill_leg() -> None:
    shared, dispatch = SharedPrompt(), Dispatch()
    asked = [asyncio.ensure_future(share(shared, dispatch)) for _ in range(3)]
    await asyncio.sleep(0)
    assert dispatch.sent == [""]
    dispatch.first.set_result(None)
    assert await asyncio.gather(*asked) == ["a response"] * 3
    assert dispatch.sent == ["", "p7", "p7"]
    # one that gets its slot later does not wait
    await share(shared, dispatch)
    assert dispatch.sent[-1] == "p7"


async def test_first_answer_that_is_cancelled_leaves_no_answer_waiting() -> None:
    shared, dispatch = SharedPrompt(), Dispatch()
    asked = [asyncio.ensure_future(share(shared, dispatch)) for _ in range(3)]
    await asyncio.sleep(0)
    asked[0].cancel()
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
    assert dispatch.sent == [""]


async def test_first_answer_that_failed_fails_one_that_gets_its_slot_later() -> None:
    shared, dispatch = SharedPrompt(), Dispatch()
    dispatch.first.set_exception(ApiError(502, "failed", code="prefill_failed"))
    for _ in range(2):
        with pytest.raises(ApiError, match="failed"):
            await share(shared, dispatch)
    assert dispatch.sent == [""]


async def test_worker_that_keeps_no_prompts_is_no_holder() -> None:
    shared, dispatch = SharedPrompt(), Dispatch(caches_prompts=False)
    dispatch.first.set_result(None)
    for _ in range(2):
        await share(shared, dispatch)
    assert dispatch.sent == ["", ""]
