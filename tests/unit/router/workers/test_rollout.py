from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from sun_sglang.router.workers.worker_paths import Starts, WorkerPath
from tests.unit.router.conftest import System
from tests.unit.router.fake_worker import FakeWorker, Fault, Rooms, expected
from tests.unit.router.fleet_api import ASK, IDS, another, call


@pytest.mark.invariant("I11")
async def test_a_worker_that_is_added_gets_requests_once_proven(small: System) -> None:
    worker = await another(small, "base-1", "decode", "w-base")
    status, said = await call(small, "POST", "/workers", {"name": "base-1", "pool": "base", "url": worker.url})
    assert (status, said["state"], said["role"]) == (201, "absent", "decode")
    await wait_until(lambda: small.router.registry.state("base-1") == "ready")
    await small.ready()
    for _ in range(4):
        assert (await small.post("/generate", ASK))[0] == 200
    assert len(worker.requests) == 2
    status, said = await call(small, "POST", "/workers", {"name": "base-1", "pool": "base", "url": worker.url})
    assert (status, said["error"]["code"]) == (409, "worker_exists")


async def test_a_worker_drains_and_resumes(sun: System) -> None:
    sun["base-0"].fault = Fault(hang_after=2)
    sun["base-1"].fault = Fault(hang_after=2)
    asked = asyncio.create_task(sun.post("/generate", {**ASK, "rid": "r"}))
    await wait_until(lambda: sun["base-0"].running or sun["base-1"].running)
    busy, other = ("base-0", "base-1") if sun["base-0"].running else ("base-1", "base-0")
    sun[other].fault = None
    status, said = await call(sun, "POST", f"/workers/{busy}/drain")
    assert (status, said["state"], said["in_flight"]) == (200, "draining", 1)
    for _ in range(3):
        assert (await sun.post("/generate", ASK))[0] == 200
    assert len(sun[busy].requests) == 1
    assert len(sun[other].requests) == 3
    await sun.client.post("/abort_request", json={"rid": "r"})
    assert (await asked)[0] == 200
    sun[busy].fault = None
    assert (await call(sun, "POST", f"/workers/{busy}/resume"))[1]["state"] == "ready"
    for _ in range(4):
        await sun.post("/generate", ASK)
    assert len(sun[busy].requests) > 1
    await sun.quiet()


@pytest.mark.invariant("I13")
@pytest.mark.parametrize("force", [False, True])
async def test_a_worker_leaves_when_its_requests_have_ended_unless_forced(sun: System, force: bool) -> None:
    for name in ("base-0", "base-1"):
        sun[name].fault = Fault(hang_after=2)
    asked = asyncio.create_task(sun.post("/generate", {**ASK, "rid": "r"}))
    await wait_until(lambda: sun["base-0"].running or sun["base-1"].running)
    busy, other = ("base-0", "base-1") if sun["base-0"].running else ("base-1", "base-0")
    sun[other].fault = None
    status, said = await call(sun, "DELETE", f"/workers/{busy}{'?force=true' if force else ''}")
    assert (status, said["removed"]) == ((200, True) if force else (202, False))
    if not force:
        listed = {w["name"]: w for w in (await sun.get("/workers"))[1]["workers"]}
        assert (listed[busy]["state"], listed[busy]["in_flight"]) == ("leaving", 1)
        assert (await sun.post("/generate", ASK))[0] == 200
        await sun.client.post("/abort_request", json={"rid": "r"})
    status, reply = await asked
    assert status == 200
    if force:
        assert reply["output_ids"] == expected("w-math", "w-base", IDS, 4)
    await wait_until(lambda: busy not in sun.router.registry.workers)
    assert (await sun.post("/generate", ASK))[0] == 200
    async with sun.client.get("/metrics") as r:
        assert f'worker="{busy}"' not in "".join(
            line for line in (await r.text()).splitlines() if line.startswith("sun_worker_")
        )
    await wait_until(lambda: any(e["event"] == "worker_removed" for e in sun.events))
    await sun.quiet()


async def test_a_task_moves_to_another_prefill_model_and_loses_nothing(small: System) -> None:
    worker = await another(small, "new-0", "prefill", "w-new")
    worker.canary_fault = Fault(status=500)
    before, after = expected("w-math", "w-base", IDS, 4), expected("w-new", "w-base", IDS, 4)
    small["base-0"].fault = Fault(hang_after=2, times=1)
    old = asyncio.create_task(small.post("/generate", {**ASK, "rid": "old"}))
    await wait_until(lambda: small["base-0"].running)
    assert (await call(small, "POST", "/pools", {"name": "new", "role": "prefill", "model": "models/new"}))[0] == 201
    assert (await call(small, "POST", "/workers", {"name": "new-0", "pool": "new", "url": worker.url}))[0] == 201
    status, said = await call(small, "PUT", "/tasks/math", {"prefill": "new"})
    assert (status, said["moved"], said["prefill"]) == (202, False, "new")
    await wait_until(lambda: worker.canaries)
    assert (await small.post("/generate", ASK))[1]["output_ids"] == before
    assert (await call(small, "GET", "/tasks"))[1]["tasks"]["math"]["prefill"]["pool"] == "math"
    worker.canary_fault = None
    await wait_until(lambda: small.router.registry.fleet.tasks["math"].prefill == "new")
    assert (await small.post("/generate", ASK))[1]["output_ids"] == after
    assert worker.requests[-1][1]["extra_key"] == "new@w-new"
    assert small.router.registry.unserved() == []
    await small.client.post("/abort_request", json={"rid": "old"})
    assert (await old)[0] == 200
    assert (await call(small, "DELETE", "/pools/math"))[1]["error"]["code"] == "pool_in_use"
    assert (await call(small, "DELETE", "/workers/math-0"))[0] in (200, 202)
    await wait_until(lambda: "math-0" not in small.router.registry.workers)
    assert (await call(small, "DELETE", "/pools/math"))[0] == 200
    assert (await small.post("/generate", {**ASK, "model": "tool"}))[0] == 200
    await small.quiet()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"identity": {"architecture": "Other"}}, "architecture differs from `base-0`'s (new-0: Other, base-0: "),
        ({"tuned_for": "other"}, "`new-0` was tuned to be decoded by weights other, and `base-0` has weights w-base"),
    ],
)
async def test_a_task_that_moves_to_workers_that_do_not_fit_stays_and_they_get_no_request(
    small: System, changes: dict[str, Any], why: str
) -> None:
    worker = await another(small, "new-0", "prefill", "w-new")
    worker.card_changes = changes
    registry = small.router.registry
    await call(small, "POST", "/pools", {"name": "new", "role": "prefill", "model": "models/new"})
    await call(small, "POST", "/workers", {"name": "new-0", "pool": "new", "url": worker.url})
    # no task pairs it with anyone yet
    await wait_until(lambda: registry.workers["new-0"].admitted)
    assert (await call(small, "PUT", "/tasks/math", {"prefill": "new"}))[0] == 202
    (unproven,) = (await call(small, "GET", "/tasks"))[1]["tasks"]["math"]["unproven_paths"]
    assert why in unproven["why"]
    assert unproven["refused"]
    # another path that needs a canary has the router look at all of them
    registry.revoke(WorkerPath("tool-0", "base-0"))
    await wait_until(lambda: registry.usable("tool"))
    assert worker.canaries == 0
    assert (await small.post("/generate", ASK))[1]["output_ids"] == expected("w-math", "w-base", IDS, 4)
    assert (await call(small, "PUT", "/tasks/math", {"prefill": "new", "any_decoder": True}))[0] in (200, 202)
    if "tuned_for" in changes:
        await wait_until(lambda: registry.fleet.tasks["math"].prefill == "new")
    await small.quiet()


@pytest.mark.invariant("I14")
async def test_under_traffic_no_request_is_lost_while_everything_changes(sun: System) -> None:
    stop, answers = asyncio.Event(), []

    async def client() -> None:
        while not stop.is_set():
            answers.append(await sun.post("/generate", ASK))

    clients = [asyncio.create_task(client()) for _ in range(8)]
    await wait_until(lambda: len(answers) > 8)
    worker = await another(sun, "new-0", "prefill", "w-new")
    await call(sun, "POST", "/pools", {"name": "new", "role": "prefill", "model": "models/new"})
    await call(sun, "POST", "/workers", {"name": "new-0", "pool": "new", "url": worker.url})
    await call(sun, "PUT", "/tasks/math", {"prefill": "new"})
    for name in ("math-0", "math-1", "base-0"):
        assert (await call(sun, "DELETE", f"/workers/{name}"))[0] in (200, 202)
    await wait_until(lambda: set(sun.router.registry.workers) == {"tool-0", "tool-1", "base-1", "new-0"})
    await wait_until(lambda: len(worker.requests) > 5)
    stop.set()
    await asyncio.gather(*clients)
    one, two = expected("w-math", "w-base", IDS, 4), expected("w-new", "w-base", IDS, 4)
    assert {status for status, _ in answers} == {200}
    assert {tuple(reply["output_ids"]) for _, reply in answers} == {tuple(one), tuple(two)}
    await sun.quiet()


async def test_a_new_task_is_served_once_proven(small: System) -> None:
    new = {"name": "more", "prefill": "math", "decode": "base", "weight": 2}
    assert (await call(small, "POST", "/tasks", {**new, "decode": "no"}))[1]["error"]["code"] == "invalid_change"
    assert (await call(small, "PUT", "/tasks/more", {"prefill": "math"}))[1]["error"]["code"] == "task_not_found"
    status, said = await call(small, "POST", "/tasks", new)
    assert (status, said["moved"], said["weight"], said["adapter"]) == (201, True, 2, None)
    assert (await small.post("/generate", {**ASK, "model": "more"}))[1]["output_ids"] == expected(
        "w-math", "w-base", IDS, 4
    )


@pytest.mark.invariant("I14")
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/workers", {"name": "x"}, 400, "pool"),
        ("POST", "/workers", {"name": "x", "pool": "no", "url": "http://h:1"}, 400, "no pool is named `no`"),
        ("POST", "/workers", {"name": "x", "pool": "base", "url": "ftp://h"}, 400, "http://HOST:PORT"),
        ("POST", "/workers/no/drain", None, 404, "no worker is named `no`"),
        ("DELETE", "/workers/no", None, 404, "no worker is named `no`"),
        ("DELETE", "/workers/base-0?force=perhaps", None, 400, "force"),
        ("POST", "/pools", {"name": "base", "role": "decode", "model": "m"}, 409, "already"),
        ("POST", "/pools", {"name": "b", "role": "both", "model": "m"}, 400, "role"),
        ("DELETE", "/pools/no", None, 404, "no pool is named `no`"),
        ("PUT", "/tasks/math", {"prefill": "base"}, 400, "is a decode pool"),
        ("PUT", "/tasks/math", {"prefill": "no"}, 400, "no pool is named `no`"),
        ("PUT", "/tasks/math", {"weight": -1}, 400, "weight"),
        ("PUT", "/tasks/math", {"colour": 1}, 400, "colour"),
        ("PUT", "/tasks/math", [], 400, "send the fields to change"),
        ("PUT", "/tasks/math", {}, 400, "send the fields to change"),
        ("PUT", "/tasks/math", {"prefill": None}, 400, "prefill"),
        ("PUT", "/tasks/math", {"adapter": {"directory": "/a"}}, 400, "adapter"),
        ("PUT", "/tasks/math", {"adapter": "relative"}, 400, "absolute path"),
        ("PUT", "/tasks/math", {"adapter": "/a\0"}, 400, "absolute path"),
        ("PUT", "/tasks/math", {"adapter": ""}, 400, "adapter"),
        ("PUT", "/tasks/no", {"weight": 1}, 404, "no task is named `no`"),
        ("DELETE", "/tasks/no", None, 404, "no task is named `no`"),
        ("POST", "/tasks", {"name": "x", "prefill": "math"}, 400, "decode: is required"),
        ("POST", "/tasks", {"name": "-x", "prefill": "math", "decode": "base"}, 400, "name"),
        ("POST", "/tasks", {"name": "math", "prefill": "math", "decode": "base"}, 409, "a task `math` already"),
        ("POST", "/tasks", {"name": "x", "prefill": "base", "decode": "base"}, 400, "is a decode pool"),
        ("POST", "/tasks", {"name": "x", "prefill": "math", "decode": "base", "colour": 1}, 400, "colour"),
        ("POST", "/tasks", [], 400, "the body"),
    ],
)
async def test_a_wrong_change_changes_nothing(
    small: System, method: str, path: str, body: Any, status: int, words: str
) -> None:
    before = small.router.registry.wanted
    got, said = await call(small, method, path, body)
    assert (got, words in said["error"]["message"]) == (status, True), said
    assert small.router.registry.wanted is before


FLEET = Fleet.model_validate(
    {
        "tasks": {"a": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
        "workers": [{"name": n, "pool": n[0], "url": f"http://h{i}:1"} for i, n in enumerate(("p0", "p1", "d0", "d1"))],
    }
)


def card(registry: Registry, name: str, incarnation: str) -> WorkerCard:
    role = registry.workers[name].role
    weights = registry.workers[name].spec.pool
    return WorkerCard.model_validate(FakeWorker(role, weights, Rooms(), incarnation=incarnation).card)


NAMES = ["p0", "p1", "d0", "d1", "q0", "e0"]
POOLS = {n: {"role": "prefill" if n in "pq" else "decode", "model": "x"} for n in "pqde"}
WORKERS = st.lists(st.sampled_from(NAMES), unique=True)
WANTED = st.tuples(
    st.dictionaries(st.sampled_from("ab"), st.tuples(st.sampled_from("pq"), st.sampled_from("de")), min_size=1),
    WORKERS,
    st.sets(st.sampled_from(NAMES)),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), WANTED),
        st.tuples(st.just("admit"), st.sampled_from(NAMES)),
        st.tuples(st.just("prove"), st.integers(0, 20)),
        st.tuples(st.just("lose"), st.sampled_from(NAMES)),
        st.tuples(st.just("take"), st.sampled_from(NAMES)),
        st.tuples(st.just("give"), st.sampled_from(NAMES)),
    ),
    max_size=40,
)


@pytest.mark.invariant("I14")
@given(EVENTS)
def test_whatever_changes_served_tasks_stay_served_and_everything_arrives(events: list[Any]) -> None:
    """No change takes a task's last path while its workers stay, and each change is complete in the end."""
    registry = Registry(FLEET)
    rollout = Rollout(registry)
    incarnation = 0
    for kind, what in events:
        match kind:
            case "change":
                tasks, workers, draining = what
                before = {t: registry.usable(t) for t in registry.task_names}
                rollout.change(fleet(tasks, workers, draining))
                for task, pairs in before.items():
                    stays = [p for p in pairs if not any(w.name in draining or w.name not in workers for w in p)]
                    assert registry.usable(task) or not stays or task not in tasks
            case "admit" if what in registry.workers:
                incarnation += 1
                registry.admit(what, card(registry, what, str(incarnation)))
            case "prove" if registry.unproven():
                path = registry.unproven()[what % len(registry.unproven())]
                registry.prove(path, starts_of(registry, path))
            case "lose" if what in registry.workers:
                registry.eject(what, "gone", gone=True)
            case "take" if what in registry.workers:
                registry.workers[what].load.acquire(1)
            case "give" if what in registry.workers and registry.workers[what].load.requests:
                registry.workers[what].load.release(1)
        for task in registry.task_names:
            for pair in registry.usable(task):
                pools = registry.fleet.tasks[task]
                assert (pair.prefill.spec.pool, pair.decode.spec.pool) == (pools.prefill, pools.decode)
                assert pair.prefill.admitted
                assert pair.decode.admitted
                assert not pair.prefill.draining
                assert not pair.decode.draining
                assert all(registry.workers[w.name] is w for w in pair)
    for worker in list(registry.workers.values()):
        registry.update(worker.spec)
        while worker.load.requests:
            worker.load.release(1)
        registry.admit(worker.name, card(registry, worker.name, "last"))
    for path in registry.unproven():
        registry.prove(path, starts_of(registry, path))
    rollout.settle()
    ready = {spec.pool for spec in registry.wanted.workers if not spec.draining}
    if all({task.prefill, task.decode} <= ready for task in registry.wanted.tasks.values()):
        assert registry.fleet == registry.wanted
        assert set(registry.workers) == {spec.name for spec in registry.wanted.workers}


def starts_of(registry: Registry, path: WorkerPath) -> Starts:
    return registry.starts(path) or Starts("", "")


def fleet(tasks: dict[str, tuple[str, str]], workers: list[str], draining: set[str]) -> Fleet:
    return Fleet.model_validate(
        {
            "tasks": {n: {"prefill": p, "decode": d} for n, (p, d) in tasks.items()},
            "pools": POOLS,
            "workers": [
                {"name": n, "pool": n[0], "url": f"http://h{NAMES.index(n)}:1", "draining": n in draining}
                for n in workers
            ],
        }
    )
