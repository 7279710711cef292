"""Modules of tasks on the workers of a running router: given, proven, lost and given again, taken away."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.module import NOT_HELD
from tests.unit.router.conftest import DEADLINES, Start, System
from tests.unit.router.fake_worker import Fault, expected
from tests.unit.router.weights_refs import adapter, module

TASKS = {"math": ("pool", "base"), "tool": ("pool", "base"), "style": ("pool", "base"), "plain": ("pool", "base")}
WORKERS = {"pool": 2, "base": 1}
POOL = ("pool-0", "pool-1")
IDS = [5, 6, 7]
QUICK = replace(DEADLINES, canary_pause_min=0.01, canary_pause_max=0.01, weights_unload_pause=0.01)
MODULES = {"math": module(1), "tool": module(2)}
MATH, TOOL = (one.revision for one in MODULES.values())
STYLE = adapter(3)


async def begin(start: Start, **changes: Any) -> System:
    settings = {"adapters": {"style": STYLE}, "modules": MODULES, "deadlines": QUICK, **changes}
    system: System = await start(TASKS, WORKERS, **settings)
    return system


def proven(system: System, worker: str) -> set[str]:
    """Return the names of the weights that are proven on a worker."""
    weights, found = system.router.registry.weights, system.router.registry.workers[worker]
    return {one.name for one in weights.needed(found.spec.pool) if weights.is_proven(found, one)}


def failures(system: System) -> list[tuple[str, str, str]]:
    return [(e["worker"], e["module"], e["why"]) for e in system.events if e["event"] == "module_failed"]


async def all_proven(system: System) -> None:
    names = {MATH, TOOL, STYLE.name}
    await wait_until(lambda: all(proven(system, worker) == names for worker in POOL))


async def ask(system: System, task: str) -> list[int]:
    status, reply = await system.post("/generate", {"model": task, "input_ids": IDS})
    assert status == 200, reply
    tokens: list[int] = reply["output_ids"]
    return tokens


@pytest.mark.invariant("I23")
async def test_modules_are_given_and_proven_beside_adapters_and_reach_no_decode_worker(start: Start) -> None:
    system = await begin(start)
    await all_proven(system)
    for name in POOL:
        fake = system[name]
        assert fake.modules.given == {MATH: "/modules/1", TOOL: "/modules/2"}
        assert sorted(fake.modules.canaries, key=str) == sorted([MATH, TOOL, None, None], key=str)
        assert sorted(fake.adapters.canaries, key=str) == sorted([None, None, None, STYLE.name], key=str)
    assert system["base-0"].modules.calls == []
    assert await ask(system, "math") == expected(f"w-pool*{MATH}", "w-base", IDS, 4)
    assert await ask(system, "tool") == expected(f"w-pool*{TOOL}", "w-base", IDS, 4)
    assert await ask(system, "style") == expected(f"w-pool+{STYLE.name}", "w-base", IDS, 4)
    assert await ask(system, "plain") == expected("w-pool", "w-base", IDS, 4)
    proofs = {(e["event"], e["worker"]) for e in system.events if e["event"] in ("module_proven", "adapter_proven")}
    assert proofs == {(event, name) for event in ("module_proven", "adapter_proven") for name in POOL}
    assert system.metric("sun_module_loads_total", worker="pool-0", outcome="ok") == 2
    assert system.metric("sun_module_canaries_total", worker="pool-0", outcome="ok") == 2
    assert system.metric("sun_adapter_loads_total", worker="pool-0", outcome="ok") == 1


async def test_answer_names_the_module_that_prefilled_it(start: Start) -> None:
    system = await begin(start, router={"log_requests": True})
    for task, header in (("math", MATH), ("plain", None)):
        async with system.client.post("/generate", json={"model": task, "input_ids": IDS}) as reply:
            assert (await reply.json())["output_ids"]
            assert (reply.headers.get("X-Sun-Module"), reply.headers.get("X-Sun-Adapter")) == (header, None)
    await system.quiet()
    lines = {e["task"]: (e["module"], e["adapter"]) for e in system.events if e["event"] == "request"}
    assert lines == {"math": (MATH, ""), "plain": ("", "")}


@pytest.mark.invariant("I23")
@pytest.mark.parametrize("in_effect", [TOOL, None])
async def test_module_that_is_not_in_effect_on_a_worker_serves_nothing_there(
    start: Start, in_effect: str | None
) -> None:
    system = await begin(start, wait=False)
    hold = system["pool-0"].modules.held[MATH] = asyncio.Event()
    system["pool-0"].modules.in_effect[MATH] = in_effect
    await wait_until(lambda: MATH in proven(system, "pool-1"))
    hold.set()
    await wait_until(lambda: failures(system))
    worker, name, why = failures(system)[0]
    assert (worker, name) == ("pool-0", MATH)
    assert why.startswith("another module than that of `pool-1` is in effect, or none")
    for _ in range(4):
        assert await ask(system, "math") == expected(f"w-pool*{MATH}", "w-base", IDS, 4)
    assert not any(MATH in body["extra_key"] for _, body in system["pool-0"].requests)
    system["pool-0"].modules.in_effect.clear()
    await all_proven(system)


async def test_module_that_computes_what_the_pools_model_computes_is_refused(start: Start) -> None:
    system = await begin(start, wait=False)
    for name in POOL:
        system[name].modules.in_effect[MATH] = None
    await wait_until(lambda: len({worker for worker, _, _ in failures(system)}) == 2)
    assert {why.partition(":")[0] for _, _, why in failures(system)} == {"the module has no effect"}


async def test_module_that_a_worker_refuses_delays_no_other_and_is_tried_again(start: Start) -> None:
    system = await begin(start, wait=False)
    system["pool-0"].modules.faults[MATH] = "/modules/1: `lm_head.weight` has shape [2, 3], and the model has [4, 3]"
    await wait_until(lambda: proven(system, "pool-0") == {TOOL, STYLE.name} and len(failures(system)) > 2)
    assert failures(system)[0] == ("pool-0", MATH, system["pool-0"].modules.faults[MATH])
    _, page = await system.get("/tasks")
    (unproven,) = page["tasks"]["math"]["unproven_modules"]
    assert (unproven["worker"], unproven["module"], unproven["refused"]) == ("pool-0", MATH, False)
    assert unproven["why"] == system["pool-0"].modules.faults[MATH]
    assert page["tasks"]["math"]["unproven_adapters"] == []
    system["pool-0"].modules.faults.clear()
    await all_proven(system)
    assert (await system.get("/tasks"))[1]["tasks"]["math"]["unproven_modules"] == []


@pytest.mark.parametrize("looks", range(1, 8))
async def test_pause_that_ends_while_the_prover_looks_for_work_is_not_forgotten(start: Start, looks: int) -> None:
    system = await begin(start, wait=False)
    now, reads = asyncio.get_running_loop().time, itertools.count()
    # the pause ends after this many looks at the clock
    step = QUICK.canary_pause_min / (looks + 0.5)
    system.router.dispatcher.attempts.now = lambda: now() + step * next(reads)
    system["pool-0"].modules.faults[MATH] = "no such file"
    await wait_until(lambda: len(failures(system)) > 20)


@pytest.mark.invariant("I23")
async def test_restarted_worker_gets_its_modules_again_before_it_serves_them(start: Start) -> None:
    system = await begin(start)
    await all_proven(system)
    holds = [system["pool-0"].modules.held.setdefault(revision, asyncio.Event()) for revision in (MATH, TOOL)]
    system["pool-0"].modules.calls.clear()
    await system["pool-0"].restart()
    await wait_until(lambda: system["pool-0"].modules.calls)
    system["pool-0"].requests.clear()
    for _ in range(4):
        assert await ask(system, "math") == expected(f"w-pool*{MATH}", "w-base", IDS, 4)
    assert system["pool-0"].requests == []
    for hold in holds:
        hold.set()
    await all_proven(system)


@pytest.mark.invariant("I23")
async def test_worker_that_lost_a_module_fails_no_request_and_gets_the_module_again(start: Start) -> None:
    system = await begin(start)
    await all_proven(system)
    for name in POOL:
        del system[name].modules.given[MATH]
        system[name].modules.calls.clear()
    assert await ask(system, "math") == expected(f"w-pool*{MATH}", "w-base", IDS, 4)
    assert await ask(system, "tool") == expected(f"w-pool*{TOOL}", "w-base", IDS, 4)
    assert system.metric("sun_retries_total", task="math", leg="prefill") >= 1
    assert any(f"+{MATH}" in system[name].modules.calls for name in POOL)


async def test_text_of_a_client_in_a_refusal_revokes_no_module(start: Start) -> None:
    system = await begin(start)
    await all_proven(system)
    message = f"bad: {NOT_HELD.format(revision=MATH)}"
    for name in POOL:
        system[name].fault = Fault(status=400, body=f'{{"error":{{"message":"{message}"}}}}'.encode())
    assert (await system.post("/generate", {"model": "math", "input_ids": IDS}))[0] == 400
    assert all(MATH in proven(system, name) for name in POOL)


async def test_worker_that_takes_no_modules_is_given_none_and_serves_its_own_model(start: Start) -> None:
    cards = {"pool-0": {"modules": None}}
    system = await begin(start, cards=cards)
    await wait_until(lambda: proven(system, "pool-1") == {MATH, TOOL, STYLE.name})
    assert await ask(system, "math") == expected(f"w-pool*{MATH}", "w-base", IDS, 4)
    assert system["pool-0"].modules.calls == []
    (unproven,) = (await system.get("/tasks"))[1]["tasks"]["math"]["unproven_modules"]
    assert (unproven["worker"], unproven["refused"]) == ("pool-0", True)
    assert unproven["why"] == "it serves its own model alone; set `modules: {}` in its pool"


async def test_module_that_no_task_needs_is_taken_once_no_request_uses_it(start: Start) -> None:
    system = await begin(start)
    await all_proven(system)
    for name in POOL:
        system[name].fault = Fault(hang=True)
    asked = asyncio.create_task(system.post("/generate", {"model": "math", "input_ids": IDS}))
    await wait_until(lambda: system["pool-0"].running or system["pool-1"].running)
    busy, other = POOL if system["pool-0"].running else POOL[::-1]
    plain = system.router.registry.wanted.tasks["math"].model_copy(update={"module": None})
    await system.router.store.edit(lambda document: document["tasks"].update(math=plain.model_dump(mode="json")))
    await wait_until(lambda: set(system[other].modules.given) == {TOOL})
    assert MATH in system[busy].modules.given
    system[busy].go_on()
    assert (await asked)[0] == 200
    await wait_until(lambda: set(system[busy].modules.given) == {TOOL})
    unloaded = {"event": "module_unloaded", "worker": busy, "module": MATH}
    await wait_until(lambda: any(unloaded.items() <= event.items() for event in system.events))


async def test_task_with_another_module_keeps_the_old_one_until_the_new_one_is_proven(start: Start) -> None:
    system = await begin(start)
    await all_proven(system)
    new = module(4)
    holds = [system[name].modules.held.setdefault(new.revision, asyncio.Event()) for name in POOL]
    updated = system.router.registry.wanted.tasks["math"].model_copy(update={"module": new})
    await system.router.store.edit(lambda document: document["tasks"].update(math=updated.model_dump(mode="json")))
    assert await ask(system, "math") == expected(f"w-pool*{MATH}", "w-base", IDS, 4)
    assert (await system.get("/tasks"))[1]["tasks"]["math"]["moving"] is True
    for hold in holds:
        hold.set()
    await wait_until(lambda: system.router.registry.fleet.tasks["math"].module == new)
    assert await ask(system, "math") == expected(f"w-pool*{new.revision}", "w-base", IDS, 4)
