"""Adapters that a worker refuses, loses, or does not apply: no request is answered without its adapter."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.adapter import AdapterRef, Fingerprint
from sun_sglang.emulator.fault_injection import Fault
from sun_sglang.emulator.identity import emulated_identity
from sun_sglang.emulator.protocol.fake_tokens import prompt_logprobs
from sun_sglang.emulator.settings import parse_settings
from tests.support.emulated_cluster import PATIENT, Cluster, emulated_cluster
from tests.support.emulator import expected, flags, make_adapter

POOLS = dict.fromkeys(("x", "y", "plain"), ("shared", "base"))
PROMPT = [3, 1, 4]
# an adapter that failed is tried again soon
EAGER = replace(PATIENT, canary_pause_min=0.01, canary_pause_max=0.01)


def two_adapters(at: Path) -> dict[str, AdapterRef]:
    return {name: make_adapter(at / name, i) for i, name in enumerate(("x", "y"))}


async def answer_of(cluster: Cluster, task: str, worker: str = "shared-0", ref: AdapterRef | None = None) -> None:
    """Send a request and check that it is answered with this adapter; None is the bare base."""
    answer, _, _ = await cluster.ask(task, PROMPT, output=4)
    assert answer == expected(cluster.workers[worker], PROMPT, 4, adapter=ref.revision if ref else "")


async def status_of(cluster: Cluster, task: str) -> int:
    body = {"model": task, "input_ids": PROMPT, "sampling_params": {"max_new_tokens": 2}}
    async with cluster.client.post("/generate", json=body) as reply:
        return reply.status


async def test_tasks_with_adapters_and_the_bare_base_share_workers(tmp_path: Path) -> None:
    refs = two_adapters(tmp_path)
    async with emulated_cluster(POOLS, adapters=refs) as cluster:
        for name in ("x", "plain", "y", "x"):
            await answer_of(cluster, name, ref=refs.get(name))


async def test_restarted_worker_gets_its_adapters_back_before_it_serves(tmp_path: Path) -> None:
    refs = two_adapters(tmp_path)
    async with emulated_cluster(POOLS, adapters=refs) as cluster:
        before = cluster.router.registry.workers["shared-0"].incarnation
        await cluster.restart("shared-0")
        await wait_until(lambda: cluster.router.registry.workers["shared-0"].incarnation not in (before, None))
        await cluster.proven()
        for name in ("x", "y", "plain"):
            await answer_of(cluster, name, ref=refs.get(name))
        assert len(cluster.events("adapter_proven")) == 2 * len(refs)


@pytest.mark.parametrize("recorded", [False, True])
async def test_worker_that_says_success_and_loads_nothing_never_serves_the_task(tmp_path: Path, recorded: bool) -> None:
    refs = two_adapters(tmp_path)
    faults = {"shared-0": Fault(kind="skip_load", times=1)}
    if recorded:
        refs = {name: ref.model_copy(update={"fingerprint": fingerprint(ref)}) for name, ref in refs.items()}
    async with emulated_cluster(POOLS, adapters=refs, faults=faults, deadlines=EAGER, wait=False) as cluster:
        # the fault is the first load's alone
        await wait_until(lambda: len(cluster.events("adapter_failed")) >= 3)
        (bad,) = {event["adapter"] for event in cluster.events("adapter_failed")}
        task = next(name for name, ref in refs.items() if ref.name == bad)
        assert await status_of(cluster, task) == 503
        other = "y" if task == "x" else "x"
        await wait_until(lambda: cluster.router.registry.usable(other))
        await answer_of(cluster, other, ref=refs[other])
        await answer_of(cluster, "plain")


def fingerprint(ref: AdapterRef) -> Fingerprint:
    """Return what a recording of this adapter on the base `shared` holds."""
    weights = emulated_identity(parse_settings(flags("prefill", "shared"))).weights
    tokens = tuple(range(40, 72))
    adapter, base = prompt_logprobs(weights, tokens, ref.revision), prompt_logprobs(weights, tokens)
    return Fingerprint(tokens=tokens, adapter=tuple(adapter), base=tuple(base))


async def test_fingerprint_of_another_adapter_is_not_accepted(tmp_path: Path) -> None:
    refs = two_adapters(tmp_path)
    recorded = {
        "x": refs["x"].model_copy(update={"fingerprint": fingerprint(refs["x"])}),
        "y": refs["y"].model_copy(update={"fingerprint": fingerprint(refs["x"])}),
    }
    async with emulated_cluster(POOLS, adapters=recorded, deadlines=EAGER, wait=False) as cluster:
        await wait_until(lambda: cluster.router.registry.usable("x"))
        await wait_until(lambda: cluster.events("adapter_failed"))
        assert {event["adapter"] for event in cluster.events("adapter_failed")} == {refs["y"].name}
        await answer_of(cluster, "x", ref=refs["x"])
        assert await status_of(cluster, "y") == 503


async def test_directory_whose_content_changed_before_the_load_is_refused(tmp_path: Path) -> None:
    refs = two_adapters(tmp_path)
    make_adapter(tmp_path / "y", 7)
    async with emulated_cluster(POOLS, adapters=refs, deadlines=EAGER, wait=False) as cluster:
        await wait_until(lambda: cluster.events("adapter_failed") and cluster.router.registry.usable("x"))
        assert await status_of(cluster, "y") == 503
        failed: list[dict[str, Any]] = cluster.events("adapter_failed")
        assert {event["adapter"] for event in failed} == {refs["y"].name}
        assert "it was to be loaded as" in failed[0]["why"]
        # the right content is back
        make_adapter(tmp_path / "y", 1)
        await cluster.proven()
        await answer_of(cluster, "y", ref=refs["y"])


async def test_worker_that_refuses_loads_serves_no_adapter_task_and_the_others_serve_all(tmp_path: Path) -> None:
    refs = two_adapters(tmp_path)
    faults = {"shared-1": Fault(kind="fail_load")}
    async with emulated_cluster(
        POOLS, {"shared": 2}, adapters=refs, faults=faults, deadlines=EAGER, wait=False
    ) as cluster:
        registry = cluster.router.registry
        await wait_until(lambda: not registry.unserved() and not registry.unproven())
        await wait_until(lambda: len(cluster.events("adapter_failed")) >= 2)
        for name in ("x", "y"):
            assert {pair.prefill.name for pair in registry.usable(name)} == {"shared-0"}
            await answer_of(cluster, name, ref=refs[name])
        assert {pair.prefill.name for pair in registry.usable("plain")} == {"shared-0", "shared-1"}
        await cluster.workers["shared-1"].server.inject(Fault(kind="clear"))
        await cluster.proven()


@pytest.mark.parametrize("workers", [1, 2])
async def test_request_whose_worker_lost_the_adapter_is_answered_with_it_and_the_adapter_comes_back(
    tmp_path: Path, workers: int
) -> None:
    refs = two_adapters(tmp_path)
    async with emulated_cluster(POOLS, {"shared": workers}, adapters=refs) as cluster:
        for number in range(workers):
            worker = cluster.workers[f"shared-{number}"]
            await worker.server.inject(Fault(kind="lose_adapters"))
            assert worker.adapters is not None
            async with asyncio.timeout(60):
                while refs["x"].name not in worker.adapters.loaded:
                    await answer_of(cluster, "x", ref=refs["x"])
            await cluster.proven()
