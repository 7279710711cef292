"""The calls of several tasks over one growing context: one prefill worker computes it, once (PrefillShare)."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.emulator.fault_injection import Fault
from sun_sglang.router.scheduling.affinity import PROMPTS_AHEAD
from tests.support.emulated_cluster import Cluster, emulated_cluster
from tests.support.emulator import VOCAB

AGENTS = ("planner", "coder", "reviewer", "summariser")
SHARED = {agent: ("base", agent) for agent in AGENTS}
ISOLATED = {agent: (f"{agent}-prefill", agent) for agent in AGENTS}
# so many that each of three workers has some
SESSIONS = 24
AFFINITY: dict[str, Any] = {"policy": {"prefill": "cache_affinity"}}


def ids(count: int, *seed: object) -> list[int]:
    rng = Random(repr(seed))
    return [rng.randrange(VOCAB) for _ in range(count)]


async def turn(cluster: Cluster, context: list[int], session: str | None) -> list[tuple[int, int, int]]:
    """Call every agent once; each answer, and 8 tokens more, join the context.

    Returns:
        For each call: tokens of its prompt, and those in the prefill worker's and in the decode worker's cache.
    """
    found = []
    for agent in AGENTS:
        answer, cached, reused = await cluster.ask(agent, context, output=4, session=session)
        found.append((len(context), cached, reused))
        context += [*answer, *ids(8, agent, len(context))]
    return found


@pytest.mark.parametrize("session", [None, "one"])
async def test_agents_over_one_context_share_one_prefill_worker_and_compute_what_was_appended(
    session: str | None,
) -> None:
    """The answer of a turn is part of what the next one computes: the decode module's KV of it has no use there."""
    async with emulated_cluster(SHARED, {"base": 3}, **AFFINITY) as cluster:
        context = ids(300, "context")
        first, second = await turn(cluster, context, session), await turn(cluster, context, session)
        (home,) = cluster.prefilled_by()
        assert [cached for _, cached, _ in first] == [0, 300, 312, 324]
        assert [cached for _, cached, _ in second] == [336, 348, 360, 372]
        assert cluster.computed(home) == 384
        # a decode worker has the prompt of its own last call, and of no other agent's
        assert [reused for _, _, reused in first] == [0, 0, 0, 0]
        assert [reused for _, _, reused in second] == [300, 312, 324, 336]


async def test_isolated_agents_each_compute_the_context() -> None:
    async with emulated_cluster(ISOLATED) as cluster:
        context = ids(300, "context")
        first, second = await turn(cluster, context, None), await turn(cluster, context, None)
        assert [cached for _, cached, _ in first] == [0, 0, 0, 0]
        assert [cached for _, cached, _ in second] == [300, 312, 324, 336]
        assert sum(map(cluster.computed, cluster.prefilled_by())) == 348 + 360 + 372 + 384


@pytest.mark.parametrize(("tasks", "copies"), [(SHARED, 1), (ISOLATED, len(AGENTS))])
async def test_memory_of_a_shared_context_is_held_once_for_each_prefill_module(
    tasks: dict[str, tuple[str, str]], copies: int
) -> None:
    """Equations 8 and 9 of the paper: L_shared + N x L_unique against N x (L_shared + L_unique)."""
    shared, unique = 400, 50
    async with emulated_cluster(tasks, {"base": 2}, **AFFINITY) as cluster:
        context = ids(shared, "shared")
        for agent in AGENTS:
            await cluster.ask(agent, context + ids(unique, agent), session="one")
        prefill = {f"{pool}-{number}" for pool, _ in tasks.values() for number in range(2)} & cluster.workers.keys()
        expected = copies * shared + len(AGENTS) * unique
        assert sum(map(cluster.computed, prefill)) == expected
        assert sum(map(cluster.held, prefill)) == expected
        # each decode pool has its own: what was transferred to it
        assert [cluster.held(f"{agent}-0") for agent in AGENTS] == [shared + unique] * len(AGENTS)


async def test_sessions_that_begin_alike_are_spread_by_their_names() -> None:
    async with emulated_cluster(SHARED, {"base": 3}, **AFFINITY) as cluster:
        system_prompt = ids(256, "system")
        for number in range(SESSIONS):
            await cluster.ask("planner", [*system_prompt, *ids(20, number)], session=f"session-{number}")
        assert len(cluster.prefilled_by()) == 3
        cluster.mark()
        for number in range(SESSIONS):
            await cluster.ask("planner", [*system_prompt, *ids(20, number, "more")])
        assert len(cluster.prefilled_by()) == 1


async def test_session_spills_over_to_one_worker_under_load_and_returns() -> None:
    async with emulated_cluster(SHARED, {"base": 3}, policy={"prefill": "prefix_affinity"}) as cluster:
        context = ids(300, "context")
        await turn(cluster, context, "one")
        (home,) = cluster.prefilled_by()
        load = cluster.router.registry.workers[home].load

        async def call(agent: str) -> int:
            # the load of other prompts stays while this one is served, so nothing waits for quiet
            body = {"model": agent, "input_ids": context, "sampling_params": {"max_new_tokens": 1}}
            headers = {"X-Sun-Session": "one"}
            async with cluster.client.post("/generate", json=body, headers=headers) as reply:
                assert reply.status == 200, await reply.text()
                return int((await reply.json())["meta_info"]["cached_tokens"])

        cluster.mark()
        load.set_external(3, (PROMPTS_AHEAD - 1) * len(context))
        # the last appended tokens are new to its worker
        assert await call("coder") == len(context) - 12
        await wait_until(lambda: load.requests == 0)
        assert cluster.prefilled_by() == {home}
        load.set_external(9, 2 * PROMPTS_AHEAD * len(context))
        assert await call("reviewer") == 0
        (second,) = cluster.prefilled_by() - {home}
        await wait_until(lambda: cluster.router.registry.workers[second].load.requests == 0)
        # again on the second one, which has the context by now
        assert await call("summariser") == len(context) - 1
        await wait_until(lambda: cluster.router.registry.workers[second].load.requests == 0)
        load.set_external(0, 0)
        assert await call("planner") == len(context) - 1
        assert cluster.prefilled_by() == {home, second}


async def test_sessions_of_other_workers_stay_where_they_are_when_a_worker_leaves() -> None:
    async with emulated_cluster(SHARED, {"base": 3}, **AFFINITY) as cluster:
        contexts = {f"session-{number}": ids(300, number) for number in range(SESSIONS)}
        homes: dict[str, str] = {}
        for session, context in contexts.items():
            cluster.mark()
            await cluster.ask("planner", context, session=session)
            (homes[session],) = cluster.prefilled_by()
        gone = homes["session-0"]
        assert len(set(homes.values())) == 3
        await cluster.workers.pop(gone).stop()
        await wait_until(lambda: len(cluster.router.registry.usable("planner")) == 2)
        for session, context in contexts.items():
            _, cached, _ = await cluster.ask("coder", [*context, 1, 2], session=session)
            # contexts of random tokens may begin with an equal one
            assert cached == 300 if homes[session] != gone else cached < 10


async def test_agents_at_once_get_the_answers_of_their_own_contexts() -> None:
    """Under load sessions move between workers; an answer never depends on where the context was computed."""
    async with emulated_cluster(SHARED, {"base": 3}, **AFFINITY) as cluster:
        contexts = [ids(200, number) for number in range(8)]

        async def session(number: int) -> list[list[int]]:
            context, answers = list(contexts[number]), []
            for agent in AGENTS * 2:
                body = {"model": agent, "input_ids": context, "sampling_params": {"max_new_tokens": 3}}
                headers = {"X-Sun-Session": f"{number}"}
                async with cluster.client.post("/generate", json=body, headers=headers) as reply:
                    answers.append((await reply.json())["output_ids"])
                context = [*context, *answers[-1], 5]
            return answers

        together = await asyncio.gather(*map(session, range(8)))
        alone = [await session(number) for number in range(8)]
        assert together == alone


@pytest.mark.parametrize(("cap", "waiting_load"), [(None, 300), (700, 0)])
async def test_prompt_without_room_at_its_decode_worker_is_work_of_a_prefill_worker_unless_a_cap_holds_it(
    cap: int | None, waiting_load: int
) -> None:
    """A prefill worker with prompts that cannot begin would send its conversations away."""
    async with emulated_cluster({"planner": ("base", "planner")}, decode_kv=1800, max_tokens=cap) as cluster:
        decode = cluster.workers["planner-0"]

        async def call(number: int) -> int:
            body = {"model": "planner", "input_ids": ids(300, number), "sampling_params": {"max_new_tokens": 8}}
            async with cluster.client.post("/generate", json=body) as reply:
                return reply.status

        def waits() -> bool:
            queued = cluster.router.metrics.registry.get_sample_value("sun_queued", {"task": "planner"})
            return bool(queued if cap else decode.engine.load()["decode_prealloc_queue_reqs"])

        decode.faults.set(Fault(kind="hold", token=1))
        two = [asyncio.create_task(call(number)) for number in range(2)]
        await wait_until(lambda: decode.engine.load()["running"] == 2)
        # their KV has arrived: their prefill legs end
        await wait_until(lambda: cluster.prefill_load == 0)
        third = asyncio.create_task(call(2))
        await wait_until(waits)
        assert cluster.prefill_load == waiting_load
        await decode.server.inject(Fault(kind="clear"))
        assert await asyncio.gather(*two, third) == [200, 200, 200]
        await cluster.quiet()


@pytest.mark.parametrize("sessions_first", [True, False])
async def test_next_call_of_a_session_goes_before_the_first_calls_of_new_ones_where_clients_are_trusted(
    sessions_first: bool,
) -> None:
    """Otherwise the sessions in flight grow without a bound, and each finds its context evicted by the others."""
    router = {"max_requests": 1, "sessions_first": sessions_first}
    async with emulated_cluster({"planner": ("base", "planner")}, **router) as cluster:
        decode = cluster.workers["planner-0"]

        async def call(session: str, number: int) -> int:
            body = {"model": "planner", "input_ids": ids(20, session, number), "sampling_params": {"max_new_tokens": 4}}
            async with cluster.client.post("/generate", json=body, headers={"X-Sun-Session": session}) as reply:
                return reply.status

        def queued() -> float:
            return cluster.router.metrics.registry.get_sample_value("sun_queued", {"task": "planner"}) or 0.0

        def decoded() -> list[list[int]]:
            return [list(found.request.prompt) for found in decode.engine.generations.values()]

        assert await call("old", 0) == 200
        decode.faults.set(Fault(kind="hold", token=1))
        first, *others = [asyncio.create_task(call("first", 0))]
        await wait_until(lambda: decoded() == [ids(20, "first", 0)])
        for session, number in (("new", 0), ("newer", 0), ("old", 1)):
            others.append(asyncio.create_task(call(session, number)))
            await wait_until(lambda: queued() == len(others))
        first.cancel()
        await wait_until(lambda: decoded() == [ids(20, "old", 1) if sessions_first else ids(20, "new", 0)])
        await decode.server.inject(Fault(kind="clear"))
        assert await asyncio.gather(*others) == [200, 200, 200]
