from __future__ import annotations

import asyncio
from typing import Any

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.task_weights.worker_modules import OWN
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_modules import OWN as STARTED_WITH
from tests.unit.router.fake_worker import Fault
from tests.unit.router.weights_refs import module

MODULES = {"math": module(1), "tool": module(2)}
MATH, TOOL = (one.revision for one in MODULES.values())
TASKS = {**dict.fromkeys(MODULES, ("pool", "base")), "plain": ("pool", "base"), "other": ("lone", "base")}


async def begin(start: Start, **changes: Any) -> System:
    system: System = await start(
        TASKS,
        {"pool": 2, "lone": 1, "base": 1},
        modules=MODULES,
        **{"router": {"load_interval": 0.01}, "cards": {"lone-0": {"modules": None}}, **changes},
    )
    return system


async def test_changes_are_counted_since_the_start_of_each_worker(start: Start) -> None:
    system = await begin(start)
    first = system["pool-0"].modules

    def counted() -> float:
        return system.metric("sun_module_changes_total", worker="pool-0")

    await wait_until(lambda: counted() == sum(first.changes.values()))
    before = counted()
    first.changes[MATH] += 4
    await wait_until(lambda: counted() == before + 4)
    assert system.metric("sun_module_change_seconds_total", worker="pool-0") == (before + 4) / 4
    # a restarted worker counts from 0, and its canaries change its weights
    await system["pool-0"].restart()
    await wait_until(lambda: counted() >= before + 4 + sum(first.changes.values()) > before + 4)
    assert system["lone-0"].modules.pages_asked == 0, "no worker of this pool takes modules"


async def test_tasks_and_metrics_show_the_modules_of_each_worker(start: Start) -> None:
    system = await begin(start)
    fake = system["pool-1"].modules
    fake.loaded, fake.queued, fake.measured = TOOL, {MATH: 3}, (0.25, 4000.0)
    worker = system.router.registry.workers["pool-1"]
    await wait_until(lambda: worker.modules.report is not None and worker.modules.report.queued == {MATH: 3})
    _, page = await system.get("/tasks")
    (shown,) = (one for one in page["tasks"]["math"]["prefill"]["workers"] if one["name"] == "pool-1")
    assert shown["modules"] == {
        "loaded": TOOL,
        "own": STARTED_WITH,
        "held": [MATH, TOOL],
        "queued": {MATH: 3},
        "host_bytes": 2000,
        "changes": sum(fake.changes.values()),
        "change_seconds": 0.25,
    }
    assert page["tasks"]["other"]["prefill"]["workers"][0]["modules"] is None
    assert page["tasks"]["math"]["module"] == {"revision": MATH, "directory": "/modules/1", "size": 1000}
    assert page["tasks"]["plain"]["module"] is None
    assert page["tasks"]["math"]["namespace"] == f"pool@w-pool*{MATH}"
    async with system.client.get("/metrics") as reply:
        metrics = await reply.text()
    assert f'sun_module_queued{{module="{MATH}",worker="pool-1"}} 3.0' in metrics
    assert 'sun_module_host_bytes{worker="pool-1"} 2000.0' in metrics


async def test_requests_go_to_the_worker_that_has_their_module(start: Start) -> None:
    system = await begin(start, router={"load_interval": 0})
    workers = system.router.registry.workers
    await wait_until(lambda: all(len(system.router.registry.usable(task)) == 2 for task in MODULES))
    # what the canaries left
    workers["pool-0"].modules.note_computed(MATH)
    workers["pool-1"].modules.note_computed(OWN)
    for _ in range(3):
        for task in ("math", "plain"):
            status, _ = await system.post("/generate", {"model": task, "input_ids": [1, 2, 3]})
            assert status == 200
    assert {path for path, _ in system["pool-0"].requests} == {"/generate"}
    assert [len(system[name].requests) for name in ("pool-0", "pool-1")] == [3, 3]
    assert not any(worker.modules.requests for worker in workers.values())


async def test_request_in_flight_is_counted_by_its_module_until_its_prompt_is_computed(start: Start) -> None:
    system = await begin(start, router={"load_interval": 0})
    workers = [system.router.registry.workers[name] for name in ("pool-0", "pool-1")]
    wait = asyncio.Event()
    for name in ("pool-0", "pool-1"):
        system[name].fault = Fault(wait=wait)
    asking = asyncio.ensure_future(system.post("/generate", {"model": "tool", "input_ids": [1]}))
    await wait_until(lambda: any(worker.modules.requests for worker in workers))
    (busy,) = (worker for worker in workers if worker.modules.requests)
    assert busy.modules.requests == {TOOL: 1}
    async with system.client.get("/metrics") as reply:
        assert f'sun_module_requests{{module="{TOOL}",worker="{busy.name}"}} 1.0' in await reply.text()
    wait.set()
    assert (await asking)[0] == 200
    assert busy.modules.requests == {}
    assert busy.modules.loaded == TOOL


async def test_worker_whose_page_cannot_be_read_is_logged_once_and_serves(start: Start) -> None:
    system = await begin(start, wait=False)
    system["pool-0"].modules.is_silent = True
    await wait_until(lambda: any(e["event"] == "modules_unreadable" for e in system.events))
    asked = system["pool-0"].modules.pages_asked
    await wait_until(lambda: system["pool-0"].modules.pages_asked > asked + 3)
    found = [e for e in system.events if e["event"] == "modules_unreadable"]
    assert [(e["worker"], e["why"]) for e in found] == [("pool-0", "it answered 500")]
    assert (await system.post("/generate", {"model": "math", "input_ids": [1]}))[0] == 200
