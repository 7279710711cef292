"""Modules of tasks on emulated workers: exact answers, caches that outlive changes, faults, and who gets a request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.module import ModuleRef, TaskWeights
from sun_sglang.emulator.fault_injection import Fault
from tests.support.emulated_cluster import PATIENT, Cluster, emulated_cluster
from tests.support.emulator import make_adapter
from tests.support.modules import expected_of, make_module

POOLS = dict.fromkeys(("x", "y", "plain"), ("shared", "base"))
PROMPT = list(range(3, 40))
# a module that failed is tried again soon
EAGER = replace(PATIENT, canary_pause_min=0.01, canary_pause_max=0.01)


def two_modules(at: Path) -> dict[str, ModuleRef]:
    return {name: make_module(at / name, i) for i, name in enumerate(("x", "y"))}


async def answer_of(cluster: Cluster, task: str, weights: TaskWeights | None, prompt: list[int] = PROMPT) -> int:
    """Send a request, check that it is answered with these weights, and return its cached tokens."""
    answer, cached, _ = await cluster.ask(task, prompt, output=4)
    assert answer == expected_of(cluster.workers["shared-0"], prompt, 4, weights), task
    return cached


def changes(cluster: Cluster) -> int:
    turns = [worker.engine.turns for worker in cluster.workers.values()]
    return sum(one.changes for each in turns if each is not None for one in each.changed.values())


@pytest.mark.invariant("I7")
async def test_modules_adapters_and_the_pools_model_share_a_worker_and_conversations_outlive_changes(
    tmp_path: Path,
) -> None:
    modules, adapters = two_modules(tmp_path), {"style": make_adapter(tmp_path / "style")}
    pools = {**POOLS, "style": ("shared", "base")}
    async with emulated_cluster(pools, modules=modules, adapters=adapters) as cluster:
        weights: dict[str, TaskWeights | None] = {"plain": None, **modules, **adapters}
        before = changes(cluster)
        for name, own in weights.items():
            assert await answer_of(cluster, name, own) == 0, "no task finds the KV of another"
        assert changes(cluster) - before >= 2
        for name, own in weights.items():
            assert await answer_of(cluster, name, own, [*PROMPT, 7, 8]) >= len(PROMPT) - 1, name


async def test_concurrent_requests_of_all_modules_are_each_answered_with_their_own(tmp_path: Path) -> None:
    modules = {str(number): make_module(tmp_path / str(number), number) for number in range(8)}
    pools = {**dict.fromkeys(modules, ("shared", "base")), "plain": ("shared", "base")}
    async with emulated_cluster(pools, {"shared": 2}, modules=modules) as cluster:
        async with asyncio.TaskGroup() as group:
            for turn in range(4):
                for name in pools:
                    group.create_task(answer_of(cluster, name, modules.get(name), [turn, *PROMPT]))
        assert not any(worker.modules.requests for worker in cluster.router.registry.workers.values())


async def test_two_tasks_that_take_turns_each_keep_a_worker_of_their_own(tmp_path: Path) -> None:
    refs = two_modules(tmp_path)
    async with emulated_cluster(dict.fromkeys(refs, ("shared", "base")), {"shared": 2}, modules=refs) as cluster:
        for name, ref in refs.items():
            await answer_of(cluster, name, ref)
        before = changes(cluster)
        for number in range(8):
            for name, ref in refs.items():
                await answer_of(cluster, name, ref, [number, *PROMPT])
        # after the canaries both may have the same module loaded
        assert changes(cluster) - before <= 1


async def test_restarted_worker_gets_its_modules_back_before_it_serves(tmp_path: Path) -> None:
    refs = two_modules(tmp_path)
    async with emulated_cluster(POOLS, modules=refs) as cluster:
        before = cluster.router.registry.workers["shared-0"].incarnation
        await cluster.restart("shared-0")
        await wait_until(lambda: cluster.router.registry.workers["shared-0"].incarnation not in (before, None))
        await cluster.proven()
        for name in POOLS:
            await answer_of(cluster, name, refs.get(name))
        assert len(cluster.events("module_proven")) == 2 * len(refs)


@pytest.mark.invariant("I23")
async def test_worker_that_takes_a_module_and_computes_with_its_own_model_never_serves_the_task(
    tmp_path: Path,
) -> None:
    refs = two_modules(tmp_path)
    faults = {"shared-0": Fault(kind="skip_load", times=1)}
    async with emulated_cluster(POOLS, modules=refs, faults=faults, deadlines=EAGER, wait=False) as cluster:
        # the fault is the first module's alone
        await wait_until(lambda: len(cluster.events("module_failed")) >= 3)
        (bad,) = {event["module"] for event in cluster.events("module_failed")}
        task = next(name for name, ref in refs.items() if ref.name == bad)
        body = {"model": task, "input_ids": PROMPT, "sampling_params": {"max_new_tokens": 2}}
        async with cluster.client.post("/generate", json=body) as reply:
            assert reply.status == 503
        other = "y" if task == "x" else "x"
        await wait_until(lambda: cluster.router.registry.usable(other))
        await answer_of(cluster, other, refs[other])
        await answer_of(cluster, "plain", None)


async def test_checkpoint_that_changed_before_it_is_given_is_refused_until_it_is_back(tmp_path: Path) -> None:
    refs = two_modules(tmp_path)
    make_module(tmp_path / "y", 7)
    async with emulated_cluster(POOLS, modules=refs, deadlines=EAGER, wait=False) as cluster:
        await wait_until(lambda: cluster.events("module_failed") and cluster.router.registry.usable("x"))
        assert not cluster.router.registry.usable("y")
        assert {event["module"] for event in cluster.events("module_failed")} == {refs["y"].name}
        make_module(tmp_path / "y", 1)
        await cluster.proven()
        await answer_of(cluster, "y", refs["y"])


@pytest.mark.parametrize("workers", [1, 2])
async def test_request_whose_worker_lost_the_module_is_answered_with_it_and_the_module_comes_back(
    tmp_path: Path, workers: int
) -> None:
    refs = two_modules(tmp_path)
    async with emulated_cluster(POOLS, {"shared": workers}, modules=refs) as cluster:
        for number in range(workers):
            worker = cluster.workers[f"shared-{number}"]
            await worker.server.inject(Fault(kind="lose_modules"))
            assert worker.modules is not None
            async with asyncio.timeout(60):
                while not worker.modules.has(refs["x"].revision):
                    # a worker that no request reaches keeps its proof, which is void by its first refusal
                    known = cluster.router.registry.workers
                    for name, each in known.items():
                        if each.role == "prefill":
                            each.load.set_external(0, 0 if name == f"shared-{number}" else 1 << 20)
                    await answer_of(cluster, "x", refs["x"])
            await cluster.proven()
