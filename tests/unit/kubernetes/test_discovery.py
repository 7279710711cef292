"""Discovery with the real client, a real router and emulated workers, on a fake API server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kubernetes import client, config

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.emulator.fault_injection import Fault
from sun_sglang.kubernetes.discovery.__main__ import discover
from sun_sglang.kubernetes.discovery.changes import Add, changes
from sun_sglang.kubernetes.discovery.pods import parse_pod
from sun_sglang.router.workers import fleet_store
from tests.support.emulator import expected
from tests.support.fake_kubernetes import pod
from tests.unit.kubernetes.conftest import Deployment, deployment

PREFILL, FIRST, SECOND = "sun-math-a", "sun-base-a", "sun-base-b"
HELD = 3


async def hold_answers(running: Deployment, count: int) -> list[asyncio.Task[list[int]]]:
    """Begin answers that stop after some tokens, on both decode workers."""
    for name in (FIRST, SECOND):
        running.workers[name].faults.set(Fault(kind="hold", token=HELD))
    asked = [asyncio.create_task(running.ask([n, n + 1], 8)) for n in range(1, count + 1)]

    def held() -> dict[str, int]:
        return {n: running.router.registry.workers[n].load.requests for n in (FIRST, SECOND)}

    await wait_until(
        held, "answers are held on both workers", accept=lambda n: sum(n.values()) == count and all(n.values())
    )
    return asked


def release(running: Deployment, name: str) -> None:
    running.workers[name].faults.set(Fault(kind="clear"))


async def check(running: Deployment, asked: list[asyncio.Task[list[int]]]) -> None:
    answers = await asyncio.gather(*asked)
    for n, answer in enumerate(answers, start=1):
        assert answer == expected(running.workers[PREFILL], [n, n + 1], 8)


async def test_pools_follow_their_pods(tmp_path: Path) -> None:
    """Scale up, scale down under load, a pod that dies, an outage, a restart under one name, a task by the API."""
    async with deployment(tmp_path) as running:
        kubernetes = running.kubernetes
        await running.start(PREFILL)
        await running.start(FIRST)
        await running.follows(PREFILL, FIRST)
        assert await running.ask([5, 6]) == expected(running.workers[PREFILL], [5, 6], 4)

        # a task that is added meanwhile, and a worker that was added by hand, stay
        body = {"name": "more", "prefill": "math", "decode": "base"}
        async with running.client.post("/tasks", json=body) as reply:
            assert reply.status == 201
        await running.start(SECOND)
        await running.follows(PREFILL, FIRST, SECOND)
        assert set(running.router.registry.task_names) == {"sums", "more"}

        # scale down: the answers of the pod that leaves go on elsewhere before it ends
        asked = await hold_answers(running, 8)
        release(running, SECOND)
        kubernetes.mark_deleted(FIRST)
        await wait_until(lambda: running.router.registry.workers[FIRST].moving)
        await wait_until(lambda: not running.workers[FIRST].engine.generations, "its answers have moved")
        await check(running, asked)
        await running.end(FIRST)
        await running.follows(PREFILL, SECOND)

        # a pod that dies: its worker ends first, then the API server shows it
        await running.start(FIRST)
        await running.follows(PREFILL, FIRST, SECOND)
        asked = await hold_answers(running, 8)
        release(running, SECOND)
        await running.end(FIRST)
        await check(running, asked)
        await running.follows(PREFILL, SECOND)

        # an outage of the API server
        kubernetes.down = True
        kubernetes.end_watches()
        await wait_until(lambda: any("does not answer" in line for line in running.lines))
        assert await running.ask([7, 8]) == expected(running.workers[PREFILL], [7, 8], 4)
        await running.start(FIRST)
        assert sorted(running.router.registry.workers) == sorted((PREFILL, SECOND))
        kubernetes.down = False
        await running.follows(PREFILL, FIRST, SECOND)

        # another pod of the same name, as a StatefulSet starts it, at another address
        async with kubernetes.unseen():
            await running.end(FIRST)
        await running.start(FIRST, uid="another")
        url = f"http://{running.workers[FIRST].settings.host}:30000"
        await wait_until(lambda: url in [worker.spec.url for worker in running.router.registry.workers.values()])
        await running.follows(PREFILL, FIRST, SECOND)
        assert len(await running.ask([9, 9])) == 4
        assert set(running.router.registry.task_names) == {"sums", "more"}


async def test_a_pool_that_the_router_does_not_have_is_reported_once_and_holds_up_nothing(tmp_path: Path) -> None:
    async with deployment(tmp_path) as running:
        running.kubernetes.put(pod("sun-other-a", "other"))
        await running.start(PREFILL)
        await running.start(FIRST)
        await running.follows(PREFILL, FIRST)
        # it is tried again at the next event
        running.kubernetes.put(pod("sun-other-b", "other"))
        await wait_until(lambda: any("sun-other-b" in line for line in running.lines))
        (line,) = [line for line in running.lines if "sun-other-a" in line]
        assert "no pool is named `other`" in line


async def test_the_program_follows_the_pods_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with deployment(tmp_path) as running:
        # its own pods: the fixture's discovery has another name
        host = client.Configuration(host=running.kubernetes.url)
        monkeypatch.setattr(config, "load_config", lambda: client.Configuration.set_default(host))
        monkeypatch.setenv("SUN_WORKER_KEY", "a-key-of-the-environment")
        stop = asyncio.Event()
        program = asyncio.create_task(discover("serving", "other", running.router.url, tmp_path, stop))
        try:
            running.kubernetes.put(pod("other-base-a", instance="other"))
            workers = running.router.registry.workers
            await wait_until(lambda: "other-base-a" in workers)
            assert workers["other-base-a"].spec.key == "a-key-of-the-environment"
            told: list[str] = []

            def is_told() -> bool:
                told.append(capsys.readouterr().err)
                return "discovery: other-base-a: added" in "".join(told)

            await wait_until(is_told)
        finally:
            stop.set()
            await program
            client.Configuration.set_default(None)


async def test_many_pods_are_added_in_few_changes_of_the_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that starts again has the pods of all pools before it."""
    writes: list[int] = []
    write = fleet_store.write_fleet

    def count(path: Path, fleet: Fleet) -> None:
        writes.append(len(fleet.workers))
        write(path, fleet)

    monkeypatch.setattr(fleet_store, "write_fleet", count)
    async with deployment(tmp_path) as running:
        async with running.kubernetes.unseen():
            for n in range(150):
                running.kubernetes.put(pod(f"sun-base-{n}", address=f"127.63.{n >> 8}.{n & 255}"))
        running.kubernetes.expire()
        await wait_until(lambda: len(running.router.registry.workers), accept=lambda found: found == 150)
    assert writes == [100, 150]


def test_thousands_of_pods_are_decided_at_once() -> None:
    """Every pod of the largest fleet appears in one list."""
    raw = [pod(f"sun-base-{n}", address=f"10.1.{n >> 8}.{n & 255}") for n in range(4096)]
    pods = {found.name: found for one in raw if (found := parse_pod(one))}
    assert changes(pods, [], {}, {}, "sun-") == [Add(found) for found in pods.values()]
