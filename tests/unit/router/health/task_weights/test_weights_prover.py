"""Adapters on the workers of a running router: loaded, proven, retried, unloaded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.router.health.task_weights.worker_start import CANARIES
from tests.unit.router.conftest import DEADLINES, Start, System
from tests.unit.router.fake_adapters import fingerprint
from tests.unit.router.fake_worker import Fault, expected
from tests.unit.router.weights_refs import LIMITS, adapter

TASKS = {"math": ("pool", "base"), "tool": ("pool", "base"), "plain": ("pool", "base")}
WORKERS = {"pool": 2, "base": 1}
IDS = [5, 6, 7]
QUICK = replace(DEADLINES, canary_pause_min=0.01, canary_pause_max=0.01, weights_unload_pause=0.01)


def recorded(number: int) -> AdapterRef:
    """Return an adapter with the fingerprint of its name."""
    return adapter(number, fingerprint(adapter(number).name))


ADAPTERS = {"math": recorded(1), "tool": recorded(2)}
MATH, TOOL = ADAPTERS["math"].name, ADAPTERS["tool"].name


async def begin(start: Start, **changes: Any) -> System:
    system: System = await start(TASKS, WORKERS, **{"adapters": ADAPTERS, "deadlines": QUICK, **changes})
    return system


def proven(system: System, worker: str) -> set[str]:
    """Return the names of the tasks' adapters that are proven on a worker."""
    registry = system.router.registry
    found = registry.workers[worker]
    needed = registry.weights.needed(found.spec.pool)
    return {one.name for one in needed if registry.weights.is_proven(found, one)}


def failures(system: System) -> list[tuple[str, str, str]]:
    events = [e for e in system.events if e["event"] == "adapter_failed"]
    return [(e["worker"], e["adapter"], e["why"]) for e in events]


async def both_proven(system: System) -> None:
    await wait_until(lambda: proven(system, "pool-0") == proven(system, "pool-1") == {MATH, TOOL})


async def ask(system: System, task: str) -> Any:
    status, reply = await system.post("/generate", {"model": task, "input_ids": IDS})
    assert status == 200, reply
    return reply["output_ids"]


@pytest.mark.invariant("I23")
async def test_adapters_are_loaded_and_proven_on_every_worker_and_used_on_the_prefill_leg_alone(start: Start) -> None:
    system = await begin(start)
    await both_proven(system)
    for name in ("pool-0", "pool-1"):
        fake = system[name].adapters
        assert fake.loaded == {MATH: "/adapters/1", TOOL: "/adapters/2"}
        assert fake.most == 1, "SGLang changes one adapter after the other"
        assert sorted(fake.canaries, key=str) == sorted([None, MATH, TOOL], key=str), "the base is measured once"
    assert await ask(system, "math") == expected(f"w-pool+{MATH}", "w-base", IDS, 4)
    assert await ask(system, "tool") == expected(f"w-pool+{TOOL}", "w-base", IDS, 4)
    assert await ask(system, "plain") == expected("w-pool", "w-base", IDS, 4)


@pytest.mark.invariant("I23")
@pytest.mark.parametrize("in_effect", ["sun-another", None])
async def test_adapter_that_is_not_in_effect_on_a_worker_serves_nothing_there(
    start: Start, in_effect: str | None
) -> None:
    system = await begin(start, wait=False)
    system["pool-0"].adapters.in_effect[MATH] = in_effect
    await wait_until(lambda: failures(system) and len(proven(system, "pool-1")) == 2)
    for _ in range(6):
        assert await ask(system, "math") == expected(f"w-pool+{MATH}", "w-base", IDS, 4)
    assert [path for path, _ in system["pool-0"].requests] == []
    assert await ask(system, "tool") == expected(f"w-pool+{TOOL}", "w-base", IDS, 4)
    worker, name, why = failures(system)[0]
    assert (worker, name) == ("pool-0", MATH)
    assert why.startswith("another adapter than that of its fingerprint is in effect, or none")
    # another load of the right content brings it back
    del system["pool-0"].adapters.in_effect[MATH]
    await both_proven(system)


async def test_adapter_that_a_worker_refuses_delays_no_other_and_is_tried_again(start: Start) -> None:
    system = await begin(start, wait=False)
    system["pool-0"].adapters.faults[MATH] = "rank 0: the file is truncated"
    await wait_until(lambda: proven(system, "pool-0") == {TOOL} and len(failures(system)) > 2)
    assert failures(system)[0] == ("pool-0", MATH, "rank 0: the file is truncated")
    why, times = system.router.weights_prover.last_fault(system.router.registry.workers["pool-0"], ADAPTERS["math"])
    assert why == "rank 0: the file is truncated"
    assert times > 1
    del system["pool-0"].adapters.faults[MATH]
    await both_proven(system)


async def test_worker_whose_load_does_not_end_delays_no_other_worker(start: Start) -> None:
    system = await begin(start, wait=False)
    release = system["pool-0"].adapters.held[MATH] = asyncio.Event()
    await wait_until(lambda: len(proven(system, "pool-1")) == 2)
    assert await ask(system, "math") == expected(f"w-pool+{MATH}", "w-base", IDS, 4)
    release.set()
    await both_proven(system)


async def test_canaries_that_hang_delay_no_load(start: Start) -> None:
    adapters = {f"task-{i}": recorded(i) for i in range(1, CANARIES + 4)}
    tasks = dict.fromkeys(adapters, ("pool", "base"))
    system: System = await start(
        tasks, {"pool": 1, "base": 1}, adapters=adapters, deadlines=replace(QUICK, canary=1e6), wait=False
    )
    system["base-0"].canary_fault = Fault(hang=True)
    system["base-0"].canary_fault.times = 0
    await wait_until(lambda: not system.router.registry.unproven())
    system["base-0"].canary_fault.times = 1_000_000
    await wait_until(lambda: len(system["pool-0"].adapters.loaded) == len(adapters))


@pytest.mark.invariant("I23")
async def test_restarted_worker_gets_its_adapters_again_before_it_serves_them(start: Start) -> None:
    system = await begin(start)
    await both_proven(system)
    worker, registry = system["pool-0"], system.router.registry
    worker.adapters.faults[MATH] = "the disk is not mounted yet"
    await worker.restart()
    await wait_until(lambda: registry.workers["pool-0"].incarnation == worker.card["incarnation"])
    await wait_until(lambda: proven(system, "pool-0") == {TOOL})
    worker.requests.clear()
    for _ in range(4):
        assert await ask(system, "math") == expected(f"w-pool+{MATH}", "w-base", IDS, 4)
    assert worker.requests == []
    worker.adapters.faults.clear()
    await both_proven(system)


async def test_adapter_without_a_fingerprint_needs_an_effect_which_every_other_worker_repeats(start: Start) -> None:
    system = await begin(start, adapters={"math": adapter(1)}, wait=False)
    for name in ("pool-0", "pool-1"):
        system[name].adapters.in_effect[MATH] = None
    await wait_until(lambda: len(failures(system)) >= 2)
    assert {why.partition(":")[0] for _, _, why in failures(system)} == {"the adapter has no effect"}
    del system["pool-0"].adapters.in_effect[MATH]
    await wait_until(lambda: proven(system, "pool-0"))
    system["pool-1"].adapters.in_effect[MATH] = "sun-another"
    await wait_until(lambda: failures(system)[-1][2].startswith("another adapter than that of `pool-0` is in effect"))
    assert not proven(system, "pool-1")
    del system["pool-1"].adapters.in_effect[MATH]
    await wait_until(lambda: proven(system, "pool-1"))


async def test_wrong_effect_of_a_worker_that_has_restarted_is_no_measure_for_the_others(start: Start) -> None:
    system = await begin(start, adapters={"math": adapter(1)}, wait=False)
    first, other = system["pool-0"], system["pool-1"]
    first.adapters.in_effect[MATH] = "sun-another"
    hold = other.adapters.held[MATH] = asyncio.Event()
    await wait_until(lambda: proven(system, "pool-0"))
    hold.set()
    await wait_until(lambda: failures(system) and "than that of `pool-0` is in effect" in failures(system)[-1][2])
    first.adapters.in_effect.clear()
    await first.restart()
    await wait_until(lambda: proven(system, "pool-0") == proven(system, "pool-1") == {MATH})


async def test_adapter_that_a_sibling_loaded_is_proven_like_one_that_was_not(start: Start) -> None:
    system = await begin(start, wait=False)
    system["pool-0"].adapters.loaded[MATH] = "/adapters/1"
    await both_proven(system)


async def test_half_unloaded_adapter_is_unloaded_before_it_is_loaded_again(start: Start) -> None:
    system = await begin(start, adapters={"math": recorded(1)}, wait=False)
    fake = system["pool-0"].adapters
    fake.faults[MATH] = f"LoRA adapter '{MATH}' has an incomplete unload. Retry the unload before loading it again."
    await wait_until(lambda: f"-{MATH}" in fake.calls)
    fake.faults.clear()
    await wait_until(lambda: MATH in proven(system, "pool-0"))


async def test_worker_that_cannot_have_an_adapter_gets_no_load(start: Start) -> None:
    cards = {"pool-0": {"adapters": {**LIMITS, "max_rank": 4}}, "pool-1": {"adapters": LIMITS}}
    tasks, adapters = {"math": ("pool", "base")}, {"math": recorded(1)}
    system: System = await start(tasks, WORKERS, cards=cards, adapters=adapters, deadlines=QUICK)
    assert await ask(system, "math") == expected(f"w-pool+{MATH}", "w-base", IDS, 4)
    assert system["pool-0"].adapters.calls == []


async def test_adapter_that_no_task_needs_is_unloaded_and_that_of_an_operator_is_not(start: Start) -> None:
    system = await begin(start)
    await both_proven(system)
    for name in ("pool-0", "pool-1"):
        system[name].adapters.loaded["mine"] = "/mine"
    fleet = system.router.registry.wanted
    plain = fleet.tasks["math"].model_copy(update={"adapter": None})
    await system.router.store.edit(lambda document: document["tasks"].update(math=plain.model_dump(mode="json")))
    await wait_until(lambda: all(set(system[w].adapters.loaded) == {TOOL, "mine"} for w in ("pool-0", "pool-1")))
    assert await ask(system, "math") == expected("w-pool", "w-base", IDS, 4)


@pytest.mark.parametrize("pause", [0.0, QUICK.weights_unload_pause])
async def test_adapter_is_not_unloaded_while_a_request_uses_it(start: Start, pause: float) -> None:
    system = await begin(start, deadlines=replace(QUICK, weights_unload_pause=pause))
    await both_proven(system)
    for name in ("pool-0", "pool-1"):
        system[name].fault = Fault(hang=True)
    asked = asyncio.create_task(system.post("/generate", {"model": "math", "input_ids": IDS}))
    await wait_until(lambda: system["pool-0"].running or system["pool-1"].running)
    busy, other = ("pool-0", "pool-1") if system["pool-0"].running else ("pool-1", "pool-0")
    plain = system.router.registry.wanted.tasks["math"].model_copy(update={"adapter": None})
    await system.router.store.edit(lambda document: document["tasks"].update(math=plain.model_dump(mode="json")))
    await wait_until(lambda: set(system[other].adapters.loaded) == {TOOL})
    assert MATH in system[busy].adapters.loaded
    system[busy].go_on()
    assert (await asked)[0] == 200
    await wait_until(lambda: set(system[busy].adapters.loaded) == {TOOL})


@pytest.mark.invariant("I23")
async def test_worker_that_lost_an_adapter_fails_no_request_and_gets_the_adapter_again(start: Start) -> None:
    system = await begin(start)
    await both_proven(system)
    registry = system.router.registry
    for name in ("pool-0", "pool-1"):
        del system[name].adapters.loaded[MATH]
        system[name].adapters.calls.clear()
    assert await ask(system, "math") == expected(f"w-pool+{MATH}", "w-base", IDS, 4)
    assert registry.state("pool-0") == registry.state("pool-1") == "ready"
    assert await ask(system, "tool") == expected(f"w-pool+{TOOL}", "w-base", IDS, 4)
    assert system.metric("sun_retries_total", task="math", leg="prefill") >= 1
    reloaded = [n for n in ("pool-0", "pool-1") if f"+{MATH}" in system[n].adapters.calls]
    assert reloaded


async def test_text_of_a_client_in_a_refusal_revokes_no_adapter(start: Start) -> None:
    system = await begin(start)
    await both_proven(system)
    message = f"bad: The following requested LoRA adapters are not loaded: {MATH}"
    for name in ("pool-0", "pool-1"):
        system[name].fault = Fault(status=400, body=f'{{"error":{{"message":"{message}"}}}}'.encode())
    assert (await system.post("/generate", {"model": "math", "input_ids": IDS}))[0] == 400
    assert proven(system, "pool-0") == proven(system, "pool-1") == {MATH, TOOL}


async def test_400_adapters_are_loaded_once_each_and_the_base_is_measured_once(start: Start) -> None:
    adapters = {f"task-{i}": recorded(i) for i in range(400)}
    tasks = dict.fromkeys(adapters, ("pool", "base"))
    system: System = await start(tasks, {"pool": 1, "base": 1}, adapters=adapters, deadlines=QUICK)
    fake = system["pool-0"].adapters
    assert len(fake.calls) == len(fake.loaded) == 400
    assert len(fake.canaries) == 401
    assert system["base-0"].canaries == 1
    assert not system.router.loops.failed.is_set()
