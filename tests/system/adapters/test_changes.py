"""Tasks that are adapters, added, changed and removed through the admin API while requests are served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.emulator.fault_injection import Fault
from tests.support.emulated_cluster import PATIENT, Cluster, emulated_cluster
from tests.support.emulator import expected, make_adapter
from tests.support.traffic import traffic

PAIR = {"prefill": "shared", "decode": "base"}
POOLS = dict.fromkeys(("x", "y"), ("shared", "base"))
TWO = {"shared": 2, "base": 2}
PREFILLS, DECODES = ("shared-0", "shared-1"), ("base-0", "base-1")
PROMPT = [3, 1, 4]
# an adapter that no task needs is unloaded soon
PROMPT_UNLOADS = replace(PATIENT, weights_unload_pause=0.01)


async def change(cluster: Cluster, method: str, path: str, **body: Any) -> tuple[int, Any]:
    async with cluster.client.request(method, path, json=body or None) as reply:
        return reply.status, await reply.json()


def loaded(cluster: Cluster, worker: str) -> set[str]:
    adapters = cluster.workers[worker].adapters
    assert adapters is not None
    return set(adapters.loaded)


def is_held(cluster: Cluster, worker: str) -> bool:
    adapters = cluster.workers[worker].adapters
    return adapters is not None and adapters.loads.is_held


def two_adapters(at: Path) -> dict[str, AdapterRef]:
    return {name: make_adapter(at / name, i) for i, name in enumerate(("x", "y"))}


async def ask_now(cluster: Cluster, task: str, ref: AdapterRef) -> None:
    """Check the answer of a request, which is made with this adapter."""
    limit = {"max_new_tokens": 4, "ignore_eos": True}
    status, reply = await change(cluster, "POST", "/generate", model=task, input_ids=PROMPT, sampling_params=limit)
    assert status == 200, reply
    assert reply["output_ids"] == expected(cluster.workers["shared-0"], PROMPT, 4, adapter=ref.revision)


async def hold(cluster: Cluster, spare: str) -> None:
    """Give answers one token and no more for now, but those whose namespace has a text."""
    for name in DECODES:
        await cluster.workers[name].server.inject(Fault(kind="hold", token=1, spare=spare))


def has_begun(cluster: Cluster, ref: AdapterRef) -> bool:
    """Return whether an answer of this adapter has its first token."""
    answers = [a for name in DECODES for a in cluster.workers[name].engine.generations.values()]
    return any(f"+{ref.revision}" in a.request.namespace and a.tokens for a in answers)


async def clear(cluster: Cluster) -> None:
    for name in DECODES:
        await cluster.workers[name].server.inject(Fault(kind="clear"))


async def test_task_added_under_traffic_is_announced_once_every_worker_has_its_adapter(tmp_path: Path) -> None:
    refs, new = two_adapters(tmp_path), make_adapter(tmp_path / "z", 2)
    async with emulated_cluster(POOLS, TWO, adapters=refs) as cluster, traffic(cluster, refs) as requests:
        await cluster.workers["shared-1"].server.inject(Fault(kind="hold_load"))
        adding = asyncio.create_task(change(cluster, "POST", "/tasks", name="z", adapter=new.directory, **PAIR))
        await wait_until(lambda: is_held(cluster, "shared-1") and new.name in loaded(cluster, "shared-0"))
        await requests.more(20)
        status, _ = await change(cluster, "POST", "/generate", model="z", input_ids=PROMPT)
        assert status == 404, "it is not announced yet"
        assert not adding.done()
        await cluster.workers["shared-1"].server.inject(Fault(kind="clear"))
        status, reply = await adding
        assert (status, reply["moved"]) == (201, True)
        await ask_now(cluster, "z", new)
        assert {pair.prefill.name for pair in cluster.router.registry.usable("z")} == set(PREFILLS)


async def test_update_under_traffic_serves_old_requests_to_their_end_and_new_ones_with_the_new_adapter(
    tmp_path: Path,
) -> None:
    refs, new = two_adapters(tmp_path), make_adapter(tmp_path / "new", 2)
    async with emulated_cluster(POOLS, TWO, adapters=refs, deadlines=PROMPT_UNLOADS) as cluster:
        await hold(cluster, f"+{new.revision}")
        old = asyncio.create_task(ask_now(cluster, "x", refs["x"]))
        await wait_until(lambda: has_begun(cluster, refs["x"]))
        status, reply = await change(cluster, "PUT", "/tasks/x", adapter=new.directory)
        assert (status, reply["moved"]) == (200, True)
        await ask_now(cluster, "x", new)
        assert not old.done()
        await clear(cluster)
        await old
        kept = {new.name, refs["y"].name}
        await wait_until(lambda: all(loaded(cluster, worker) == kept for worker in PREFILLS))
        async with traffic(cluster, {"x": new, "y": refs["y"]}) as requests:
            requests.allow("x", refs["x"])
            assert (await change(cluster, "PUT", "/tasks/x", adapter=refs["x"].directory))[0] == 200
            await requests.more(20)
            requests.require("x", refs["x"])


async def test_removed_task_ends_its_requests_and_its_adapter_is_unloaded_unless_another_task_has_it(
    tmp_path: Path,
) -> None:
    refs = two_adapters(tmp_path)
    make_adapter(tmp_path / "copy", 0)
    async with (
        emulated_cluster(POOLS, TWO, adapters=refs, deadlines=PROMPT_UNLOADS) as cluster,
        traffic(cluster, refs) as requests,
    ):
        same = await change(cluster, "POST", "/tasks", name="same", adapter=str(tmp_path / "copy"), **PAIR)
        assert same[0] == 201
        assert loaded(cluster, "shared-0") == {ref.name for ref in refs.values()}, "equal content is loaded once"
        await requests.end("y")
        await hold(cluster, f"+{refs['x'].revision}")
        last = asyncio.create_task(ask_now(cluster, "y", refs["y"]))
        await wait_until(lambda: has_begun(cluster, refs["y"]))
        status, reply = await change(cluster, "DELETE", "/tasks/y")
        assert (status, reply["in_flight"]) == (200, 1)
        assert (await change(cluster, "POST", "/generate", model="y", input_ids=PROMPT))[0] == 404
        assert not last.done()
        await clear(cluster)
        await last
        await wait_until(lambda: all(loaded(cluster, worker) == {refs["x"].name} for worker in PREFILLS))
        assert (await change(cluster, "DELETE", "/tasks/same"))[0] == 200
        await requests.more(10)
        assert all(loaded(cluster, worker) == {refs["x"].name} for worker in PREFILLS)
        # it may come back
        assert (await change(cluster, "POST", "/tasks", name="y", adapter=refs["y"].directory, **PAIR))[0] == 201
        await ask_now(cluster, "y", refs["y"])


@pytest.mark.parametrize(
    ("kind", "why"),
    [("fail_load", "made to fail"), ("skip_load", "no effect")],
)
async def test_task_whose_adapter_one_worker_refuses_changes_nothing_on_any_worker(
    tmp_path: Path, kind: Any, why: str
) -> None:
    refs, new = two_adapters(tmp_path), make_adapter(tmp_path / "z", 2)
    async with emulated_cluster(POOLS, TWO, adapters=refs) as cluster, traffic(cluster, refs) as requests:
        await cluster.workers["shared-1"].server.inject(Fault(kind=kind))
        before = {worker: loaded(cluster, worker) for worker in PREFILLS}
        status, reply = await change(cluster, "POST", "/tasks", name="z", adapter=new.directory, **PAIR)
        assert status == 409
        assert "`shared-1`" in reply["error"]["message"]
        assert why in reply["error"]["message"]
        assert {worker: loaded(cluster, worker) for worker in PREFILLS} == before
        status, reply = await change(cluster, "PUT", "/tasks/x", adapter=new.directory)
        assert status == 409
        assert {worker: loaded(cluster, worker) for worker in PREFILLS} == before
        assert set((await change(cluster, "GET", "/tasks"))[1]["tasks"]) == {"x", "y"}
        await requests.more(10)
        await cluster.workers["shared-1"].server.inject(Fault(kind="clear"))
        assert (await change(cluster, "POST", "/tasks", name="z", adapter=new.directory, **PAIR))[0] == 201
        await ask_now(cluster, "z", new)


def truncated(at: Path) -> None:
    make_adapter(at, 2)
    weights = at / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


async def test_task_that_cannot_be_added_is_one_error_before_any_worker_is_asked(tmp_path: Path) -> None:
    refs = two_adapters(tmp_path)
    written: dict[str, Callable[[Path], object]] = {
        "big": lambda at: make_adapter(at, 2, rank=9),
        "wide": lambda at: make_adapter(at, 2, modules=("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")),
        "short": truncated,
        "empty": lambda at: at.mkdir(),
        "absent": lambda at: None,
        "good": lambda at: make_adapter(at, 2),
    }
    for name, write in written.items():
        write(tmp_path / name)

    def body(adapter: str, **fields: Any) -> dict[str, Any]:
        return {"name": "z", **PAIR, "adapter": str(tmp_path / adapter), **fields}

    cases = [
        (body("big"), 409, "rank"),
        (body("wide"), 409, "down_proj"),
        (body("short"), 400, "adapter_model.safetensors"),
        (body("empty"), 400, "adapter_config.json"),
        (body("absent"), 400, "absent"),
        (body("good", name="x"), 409, "`x`"),
        (body("good", prefill="nowhere"), 400, "nowhere"),
        ({**body("good"), "adapter": "relative"}, 400, "absolute"),
    ]
    async with emulated_cluster(POOLS, {"shared": 2}, adapters=refs) as cluster:
        for worker in PREFILLS:
            # a load would wait for ever
            await cluster.workers[worker].server.inject(Fault(kind="hold_load"))
        for fields, expected_status, why in cases:
            status, reply = await change(cluster, "POST", "/tasks", **fields)
            assert status == expected_status, reply
            assert why in reply["error"]["message"], reply
        assert set((await change(cluster, "GET", "/tasks"))[1]["tasks"]) == {"x", "y"}
        assert (await change(cluster, "PUT", "/tasks/nobody", adapter=refs["x"].directory))[0] == 404
        assert (await change(cluster, "DELETE", "/tasks/nobody"))[0] == 404
