from __future__ import annotations

from typing import Any

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import Start, System
from tests.unit.router.fake_adapters import fingerprint
from tests.unit.router.weights_refs import adapter

ADAPTERS = {name: adapter(i, fingerprint(adapter(i).name)) for i, name in enumerate(("math", "tool"))}
MATH, TOOL = ADAPTERS["math"].name, ADAPTERS["tool"].name


async def begin(start: Start, **changes: Any) -> System:
    tasks = {**dict.fromkeys(ADAPTERS, ("pool", "base")), "twin": ("pool", "base"), "plain": ("lone", "base")}
    system: System = await start(
        tasks,
        {"pool": 2, "lone": 1, "base": 1},
        adapters={**ADAPTERS, "twin": ADAPTERS["math"]},
        **{"router": {"load_interval": 0.01}, **changes},
    )
    return system


def cold(**loads: tuple[int, float]) -> dict[str, Any]:
    names = {"math": MATH, "tool": TOOL}
    return {names[name]: {"loads": n, "seconds": s} for name, (n, s) in loads.items()}


async def test_cold_loads_of_an_adapter_are_counted_for_its_tasks_and_since_the_start_of_each_worker(
    start: Start,
) -> None:
    system = await begin(start)
    first, second = system["pool-0"].adapters, system["pool-1"].adapters
    first.page = {"resident": [MATH], "cold": cold(math=(2, 0.5), tool=(1, 0.25))}
    second.page = {"resident": [], "cold": cold(math=(1, 0.5))}
    await wait_until(lambda: system.metric("sun_adapter_cold_loads_total", task="math") == 3)
    assert system.metric("sun_adapter_cold_loads_total", task="twin") == 3
    assert system.metric("sun_adapter_cold_loads_total", task="tool") == 1
    assert system.metric("sun_adapter_cold_load_seconds_total", task="math") == 1.0
    first.page = {"resident": [MATH], "cold": cold(math=(5, 0.75))}
    await wait_until(lambda: system.metric("sun_adapter_cold_loads_total", task="math") == 6)
    assert system.metric("sun_adapter_cold_load_seconds_total", task="math") == 1.25
    first.page = {"resident": [], "cold": cold(math=(1, 0.25))}
    await system["pool-0"].restart()
    await wait_until(lambda: system.metric("sun_adapter_cold_loads_total", task="math") == 7)
    assert system["lone-0"].adapters.pages_asked == 0, "no task of this pool has an adapter"


async def test_worker_that_holds_an_adapter_is_preferred(start: Start) -> None:
    system = await begin(start)
    workers = system.router.registry.workers
    system["pool-1"].adapters.page = {"resident": [MATH, "an operator's"]}
    system["pool-0"].adapters.page = {"resident": [TOOL]}
    await wait_until(lambda: all(len(system.router.registry.usable(task)) == 2 for task in ADAPTERS))
    # the canaries brought each adapter to both; the reports after them say what stayed
    held = {"pool-0": [False, True], "pool-1": [True, False]}
    await wait_until(lambda: {n: [workers[n].resident.holds(a) for a in (MATH, TOOL)] for n in held} == held)
    for _ in range(4):
        for task in ("math", "tool"):
            assert (await system.post("/generate", {"model": task, "input_ids": [1, 2]}))[0] == 200
            await system.quiet()
    used = {name: {body["lora_path"] for _, body in system[name].requests} for name in ("pool-0", "pool-1")}
    assert used == {"pool-0": {TOOL}, "pool-1": {MATH}}


async def test_worker_without_the_page_is_reported_once_and_serves(start: Start) -> None:
    system = await begin(start)
    await wait_until(lambda: system["pool-0"].adapters.pages_asked > 2)
    found = [e["why"] for e in system.events if e["event"] == "adapters_unreadable" and e["worker"] == "pool-0"]
    assert found == ["it answered 404"]
    system["pool-0"].adapters.page = {"resident": 7}
    assert (await system.post("/generate", {"model": "math", "input_ids": [1, 2]}))[0] == 200
    assert not system.router.loops.failed.is_set()
