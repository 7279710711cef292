from __future__ import annotations

from dataclasses import replace

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.health.failure import next_failure
from tests.unit.router.conftest import DEADLINES, PATIENCE_S, Start
from tests.unit.router.fake_worker import Fault


async def test_canaries_that_hang_on_one_decode_worker_delay_no_other_worker(
    start: Start,
) -> None:
    """Two paths lead to the worker that hangs, and no canary ends within this test's patience."""
    tasks = {f"task-{i}": ("math", "base") for i in range(6)}
    system = await start(tasks, {"math": 2, "base": 2}, deadlines=replace(DEADLINES, canary=100 * PATIENCE_S))
    liar, healthy, registry = system["base-0"], system["base-1"], system.router.registry
    liar.canary_fault = Fault(hang=True)
    liar.canaries = 0
    await liar.restart()
    await wait_until(lambda: liar.canaries == 2)
    await healthy.restart()
    await wait_until(lambda: registry.workers["base-1"].incarnation == healthy.card["incarnation"])
    await wait_until(lambda: all(len(registry.usable(task)) == 2 for task in tasks))
    assert (registry.state("base-0"), registry.state("base-1")) == ("registering", "ready")


DEEP = b"[" * 1000 + b"]" * 1000


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"id":"RID","meta_info":{"prompt_tokens":8,"completion_tokens":' + DEEP + b"}}"),
        (200, b'{"id":"RID","meta_info":{"finish_reason":{"type":"abort","message":' + DEEP + b"}}}"),
        (200, b'{"error":{"message":' + DEEP + b"}}"),
        (500, b'{"error":{"message":' + DEEP + b"}}"),
        (200, b'{"id":"RID","meta_info":{"completion_tokens":"' + b"x" * 10_000 + b'"}}'),
    ],
    ids=["count", "abort", "error", "status", "long"],
)
async def test_canary_answer_that_is_garbage_refuses_its_path_and_ends_nothing(
    start: Start, status: int, body: bytes
) -> None:
    """Python prints nested lists by recursion, and what a canary's check raises would end the router."""
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1})
    liar, healthy = system["base-0"], system["math-0"]
    liar.canary_fault = Fault(status=status, body=body)
    await healthy.restart()
    await wait_until(lambda: [e for e in system.events if e["event"] == "canary_failed"])
    (event, *_) = [e for e in system.events if e["event"] == "canary_failed"]
    assert len(event["why"]) <= 500
    liar.canary_fault = None
    await system.ready()
    assert not system.router.loops.failed.is_set()


def test_record_of_failed_canaries_counts_the_same_fault_in_a_row_between_the_same_starts() -> None:
    first = next_failure(None, ("a", "b"), "no KV for room 8812", 10.0, DEADLINES)
    second = next_failure(first, ("a", "b"), "no KV for room 17", 11.0, DEADLINES)
    assert (first.times, second.times, second.pause) == (1, 2, 2 * first.pause)
    assert next_failure(second, ("a", "b"), "no route", 13.0, DEADLINES).times == 1
    restarted = next_failure(second, ("a", "c"), "no KV for room 9", 13.0, DEADLINES)
    assert (restarted.times, restarted.pause) == (1, first.pause)


async def test_tasks_tell_how_many_canaries_in_a_row_failed_in_one_way(start: Start) -> None:
    quick = replace(DEADLINES, canary_pause_min=0.01, canary_pause_max=0.01)
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1}, deadlines=quick)
    system["base-0"].canary_fault = Fault(status=500, body=b'{"error":{"message":"no KV for request RID"}}')
    await system["base-0"].restart()
    await wait_until(lambda: len([e for e in system.events if e["event"] == "canary_failed"]) >= 3)
    _, body = await system.get("/tasks")
    (path,) = body["tasks"]["math"]["unproven_paths"]
    assert (path["prefill"], path["decode"]) == ("math-0", "base-0")
    assert path["times"] >= 3
    system["base-0"].canary_fault = None
    await system.ready()


async def test_400_tasks_on_shared_workers_send_one_canary_per_pair_of_workers(start: Start) -> None:
    tasks = {f"task-{i}": ("math", "base") for i in range(400)}
    system = await start(tasks, {"math": 4, "base": 8})
    decodes = [worker for name, worker in system.workers.items() if name.startswith("base")]
    assert [worker.canaries for worker in decodes] == [4] * 8
    _, report = await system.get("/tasks")
    assert all(len(task["paths"]) == 32 and not task["unproven_paths"] for task in report["tasks"].values())


async def test_restart_of_one_worker_sends_canaries_over_its_pairs_alone(start: Start) -> None:
    tasks = {f"task-{i}": ("math", "base") for i in range(20)}
    system = await start(tasks, {"math": 2, "base": 3})
    before = {name: worker.canaries for name, worker in system.workers.items()}
    await system["math-1"].restart()
    registry = system.router.registry
    await wait_until(lambda: registry.workers["math-1"].incarnation == system["math-1"].card["incarnation"])
    await system.ready()
    sent = {name: worker.canaries - before[name] for name, worker in system.workers.items()}
    assert sent == {"math-0": 0, "math-1": 3, "base-0": 1, "base-1": 1, "base-2": 1}


async def test_health_generate_shares_one_canary_between_tasks_with_the_same_path(start: Start) -> None:
    system = await start({f"task-{i}": ("math", "base") for i in range(20)}, {"math": 1, "base": 1})
    before = system["base-0"].canaries
    assert (await system.get("/health_generate"))[0] == 200
    assert system["base-0"].canaries == before + 1
