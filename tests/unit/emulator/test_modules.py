"""Modules that take turns on an emulated worker, as a client observes them."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.checkpoint.module.read import module_size
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import NOT_HELD, ModuleLimits, module_namespace
from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.emulator.fault_injection import Fault
from sun_sglang.emulator.identity import emulated_revision
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens, prompt_logprobs
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.errors import UserError
from tests.support.adapters import write_base
from tests.support.emulator import VOCAB, Start, ask, at_rest, expected, legs, post, url

PROMPT = [3, 1, 4, 1, 5]
LIMITS = ModuleLimits(host_bytes=10**12)
X, Y = emulated_revision("x"), emulated_revision("y")


def namespace(revision: str) -> str:
    return module_namespace("pool@r", revision)


async def add(
    client: aiohttp.ClientSession, worker: EmulatedWorker, directory: str, revision: str | None = None
) -> tuple[int, Any]:
    body = {"directory": directory, "revision": revision or emulated_revision(directory)}
    async with client.post(f"{url(worker)}/sun/modules", json=body) as reply:
        return reply.status, await reply.json()


async def remove(client: aiohttp.ClientSession, worker: EmulatedWorker, revision: str) -> int:
    async with client.delete(f"{url(worker)}/sun/modules/{revision}") as reply:
        return reply.status


async def report(client: aiohttp.ClientSession, worker: EmulatedWorker) -> ModulesReport:
    async with client.get(f"{url(worker)}/sun/modules") as reply:
        assert reply.status == 200
        return ModulesReport.model_validate(await reply.json())


def test_revision_of_a_name_is_that_of_a_worker_with_this_model() -> None:
    assert emulated_revision("any/name") == hashlib.sha256(b"any/name@").hexdigest()[:16]


async def test_answers_and_prompt_logprobs_follow_from_the_module(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a", modules=LIMITS), await start("decode", "base")
    for name in ("x", "y"):
        assert await add(client, prefill, name) == (200, {})
    own = prefill.card.identity.weights
    for revision in (X, Y, None, X):
        key = "pool@r" if revision is None else namespace(revision)
        body = legs(prefill, PROMPT, 6, extra_key=key)
        logprobs = {"return_logprob": True, "logprob_start_len": 0}
        (_, first), (status, second) = await asyncio.gather(
            post(client, prefill, {**body, **logprobs}), post(client, decode, body)
        )
        assert status == 200
        assert second["output_ids"] == expected_tokens(revision or own, PROMPT, 6, VOCAB)
        rows = first["meta_info"]["input_token_logprobs"]
        assert [row[0] for row in rows] == [None, *prompt_logprobs(revision or own, PROMPT)]
    found = await report(client, prefill)
    assert (found.loaded, found.own, found.queued) == (X, own, {})
    assert set(found.held) == {X, Y, own}
    assert {revision: c.changes for revision, c in found.changed.items()} == {X: 2, Y: 1, own: 1}
    assert found.host_bytes == 3 * 16_060_522_496
    assert prefill.card.modules == LIMITS


async def test_equal_prompts_share_cached_kv_within_a_module_alone_and_across_its_turns(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill, decode = await start("prefill", "a", modules=LIMITS), await start("decode", "base")
    hits = []
    for name in ("x", "y", "x"):
        await add(client, prefill, name)
        key = namespace(emulated_revision(name))
        (_, first), _ = await ask(client, prefill, decode, PROMPT, 1, extra_key=key)
        hits.append(first["meta_info"]["cached_tokens"])
    assert hits == [0, 0, len(PROMPT) - 1]


async def test_request_for_a_module_that_the_worker_was_not_given_is_refused(
    start: Start, client: aiohttp.ClientSession
) -> None:
    keeps, plain = await start("prefill", "a", modules=LIMITS), await start("prefill", "a")
    for worker in (keeps, plain):
        status, reply = await post(client, worker, legs(worker, PROMPT, 1, extra_key=namespace(X)))
        assert status == 400
        assert reply["error"]["message"] == NOT_HELD.format(revision=X)
        assert at_rest(worker)


async def test_worker_that_serves_its_own_model_alone_has_no_modules(
    start: Start, client: aiohttp.ClientSession
) -> None:
    plain = await start("prefill", "a")
    assert plain.card.modules is None
    assert (await add(client, plain, "x"))[0] == 404
    assert await remove(client, plain, X) == 404
    async with client.get(f"{url(plain)}/sun/modules") as reply:
        assert reply.status == 404


async def test_addition_refuses_a_name_of_another_revision_and_a_body_that_is_wrong(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill = await start("prefill", "a", modules=LIMITS)
    status, reply = await add(client, prefill, "x", Y)
    assert status == 400
    assert reply["error"]["message"] == f"x: its weights have the revision {X}, and not {Y}"
    status, reply = await add(client, prefill, "x", "short")
    assert status == 400
    assert "revision" in reply["error"]["message"]
    assert (await report(client, prefill)).held == ()


async def test_addition_reads_a_checkpoint_and_compares_it_with_the_worker_s(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    own, other, wide = tmp_path / "own", tmp_path / "other", tmp_path / "wide"
    write_base(own)
    write_base(other, fill=1)
    write_base(wide, config={"intermediate_size": 99}, fill=2)
    prefill = await start("prefill", str(own), modules=LIMITS)
    status, reply = await add(client, prefill, str(wide), weights_revision(wide))
    assert status == 400
    assert str(wide) in reply["error"]["message"]
    assert await add(client, prefill, str(other), weights_revision(other)) == (200, {})
    assert (await report(client, prefill)).host_bytes == 2 * module_size(own)


async def test_modules_over_the_bound_of_host_memory_give_way_and_are_copied_again(
    start: Start, client: aiohttp.ClientSession
) -> None:
    limits = ModuleLimits(host_bytes=200)
    prefill = await start("prefill", "a", modules=limits, module_size=100)
    decode = await start("decode", "base")
    for name in ("x", "y"):
        await add(client, prefill, name)
    own = prefill.card.identity.weights
    assert set((await report(client, prefill)).held) == {own, Y}, (
        "a worker keeps its own model when it gets another one"
    )
    for revision in (X, own):
        key = namespace(revision) if revision != own else "pool@r"
        _, (status, second) = await ask(client, prefill, decode, PROMPT, 3, extra_key=key)
        assert status == 200
        assert second["output_ids"] == expected_tokens(revision, PROMPT, 3, VOCAB)
    assert set((await report(client, prefill)).held) == {X, own}, "the least recently used one gave way"


async def test_removal_waits_for_the_requests_of_the_module(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a", modules=LIMITS), await start("decode", "base")
    await add(client, prefill, "x")
    body = legs(prefill, PROMPT, 2, extra_key=namespace(X))
    leg = asyncio.create_task(post(client, prefill, body))
    await wait_until(lambda: bool(prefill.engine.generations))
    removal = asyncio.create_task(remove(client, prefill, X))
    await wait_until(lambda: prefill.modules is not None and not prefill.modules.has(X))
    assert (await post(client, prefill, legs(prefill, PROMPT, 1, extra_key=namespace(X))))[0] == 400
    assert not removal.done()
    assert (await post(client, decode, body))[0] == 200
    assert (await leg)[0] == 200
    assert await removal == 200
    assert await remove(client, prefill, X) == 404


async def test_change_takes_the_time_of_the_cost_model_and_queued_prompts_are_reported(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    costs = tmp_path / "costs.yaml"
    costs.write_text("module_change: 3600")
    prefill, decode = await start("prefill", "a", modules=LIMITS, costs=costs), await start("decode", "base")
    await add(client, prefill, "x")
    legs_of_x = asyncio.create_task(ask(client, prefill, decode, PROMPT, 1, extra_key=namespace(X)))
    engine: Any = prefill.engine
    await wait_until(lambda: engine.scheduler.changing)
    found = await report(client, prefill)
    assert (found.loaded, found.queued, found.changed) == (found.own, {X: 1}, {})
    legs_of_x.cancel()


async def test_faults_of_loads_apply_to_modules(start: Start, client: aiohttp.ClientSession) -> None:
    prefill, decode = await start("prefill", "a", modules=LIMITS), await start("decode", "base")
    modules = prefill.modules
    assert modules is not None
    await prefill.server.inject(Fault(kind="fail_load", times=1))
    assert await add(client, prefill, "x") == (400, {"error": {"message": "made to fail", "code": 400}})
    await prefill.server.inject(Fault(kind="hold_load"))
    adding = asyncio.create_task(add(client, prefill, "x"))
    await wait_until(lambda: modules.loads.is_held)
    await prefill.server.inject(Fault(kind="skip_load", times=1))
    assert (await adding)[0] == 200
    _, (_, second) = await ask(client, prefill, decode, PROMPT, 3, extra_key=namespace(X))
    assert second["output_ids"] == expected(prefill, PROMPT, 3), "the module has no effect"
    await prefill.server.inject(Fault(kind="lose_modules"))
    assert (await post(client, prefill, legs(prefill, PROMPT, 1, extra_key=namespace(X))))[0] == 400
    assert (await add(client, prefill, "x"))[0] == 200
    _, (_, second) = await ask(client, prefill, decode, PROMPT, 3, extra_key=namespace(X))
    assert second["output_ids"] == expected_tokens(X, PROMPT, 3, VOCAB)


async def test_settings_of_modules_are_refused_on_a_decode_worker(start: Start) -> None:
    with pytest.raises(UserError, match="only prefill workers keep modules"):
        await start("decode", "base", modules=LIMITS)
