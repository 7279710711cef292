"""Workers that are killed while they change between modules, each a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.modules import LIMITS, make_module
from tests.system.faults.cluster import PATIENCE_S
from tests.system.faults.conftest import Start
from tests.system.faults.test_rows import outcome


@pytest.mark.invariant("I23")
async def test_worker_killed_during_a_change_gives_no_wrong_answer_and_gets_its_modules_again(
    start: Start, tmp_path: Path
) -> None:
    costs = {"module_change": 0.05, "prefill": 0.01}
    cluster = await start({"math": 1, "base": 1}, tasks={"math": ("math", "base")}, costs=costs, modules=LIMITS)
    for number, name in enumerate(("new", "other")):
        await cluster.add_task(name, make_module(tmp_path / name, number))
    tasks = ("math", "new", "other")
    before = await cluster.incarnation("math-0")
    await cluster.fault("math-0", "die_in_change")
    bodies = [cluster.body(task, prompt=[number + 1, 2]) for number in range(4) for task in tasks]
    outcomes = await asyncio.gather(*(outcome(cluster, body) for body in bodies))
    assert cluster["math-0"].process.wait(PATIENCE_S) != 0
    assert "worker_died" in outcomes
    assert set(outcomes) <= {"ok", "worker_died", "no_worker"}, "an answer is that of its task's own module"
    cluster["math-0"].start()
    await cluster.replaced("math-0", before)
    await cluster.ready()
    for task in tasks:
        await cluster.exact(task)
    await cluster.settled()
