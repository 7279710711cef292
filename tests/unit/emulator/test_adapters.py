"""LoRA adapters of an emulated worker: loads, unloads, requests and faults, as a client observes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.emulator.fault_injection import Fault
from sun_sglang.emulator.protocol.fake_tokens import prompt_logprobs
from sun_sglang.emulator.protocol.request_parser import adapter_of_model
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.errors import TopologyError
from tests.support.adapters import adapter_shapes, write_adapter, write_base
from tests.support.emulator import LORA, Start, ask, at_rest, expected, flags, legs, make_adapter, post, url

PROMPT = [3, 1, 4, 1, 5]


async def change(client: aiohttp.ClientSession, worker: EmulatedWorker, what: str, **body: Any) -> tuple[int, Any]:
    async with client.post(f"{url(worker)}/{what}_lora_adapter", json=body) as reply:
        return reply.status, await reply.json()


async def load(client: aiohttp.ClientSession, worker: EmulatedWorker, ref: AdapterRef) -> tuple[int, Any]:
    return await change(client, worker, "load", lora_name=ref.name, lora_path=ref.directory)


async def page(client: aiohttp.ClientSession, worker: EmulatedWorker) -> Any:
    async with client.get(f"{url(worker)}/sun/adapters") as reply:
        assert reply.status == 200
        return await reply.json()


async def test_answers_and_prompt_logprobs_follow_from_the_adapter(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill, decode = await start("prefill", "a", *LORA), await start("decode", "base")
    x, y = make_adapter(tmp_path / "x", 1), make_adapter(tmp_path / "y", 2)
    for ref in (x, y):
        assert (await load(client, prefill, ref))[0] == 200
    weights = prefill.card.identity.weights
    for ref in (x, y, None):
        body = legs(prefill, PROMPT, 6)
        own = {"lora_path": ref.name, "return_logprob": True, "logprob_start_len": 0} if ref else {}
        (_, first), (status, second) = await asyncio.gather(
            post(client, prefill, {**body, **own}), post(client, decode, body)
        )
        revision = ref.revision if ref else ""
        assert status == 200
        assert second["output_ids"] == expected(prefill, PROMPT, 6, adapter=revision)
        if ref:
            rows = first["meta_info"]["input_token_logprobs"]
            assert [row[0] for row in rows] == [None, *prompt_logprobs(weights, PROMPT, revision)]
    assert len({tuple(prompt_logprobs(weights, PROMPT, r)) for r in ("", x.revision, y.revision)}) == 3
    assert max(prompt_logprobs(weights, list(range(500)), x.revision)) < 0
    assert await page(client, prefill) == {
        "resident": sorted((x.name, y.name)),
        "cold": {ref.name: {"loads": 1, "seconds": 0.0} for ref in (x, y)},
    }


async def test_equal_prompts_share_no_cached_kv_across_adapters_and_loads(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill, decode = await start("prefill", "a", *LORA), await start("decode", "base", "--enable-lora", *LORA[1:])
    ref = make_adapter(tmp_path / "x")
    hits = []

    async def hit(**fields: Any) -> None:
        (_, first), _ = await ask(client, prefill, decode, PROMPT, 1, **fields)
        hits.append(first["meta_info"]["cached_tokens"])

    for worker in (prefill, decode):
        await load(client, worker, ref)
    await hit()
    await hit(lora_path=ref.name)
    await hit(lora_path=ref.name)
    for worker in (prefill, decode):
        assert (await change(client, worker, "unload", lora_name=ref.name))[0] == 200
        await load(client, worker, ref)
    await hit(lora_path=ref.name)
    assert hits == [0, 0, len(PROMPT) - 1, 0]


async def test_card_reports_the_limits_and_a_plain_worker_refuses_adapters(
    start: Start, client: aiohttp.ClientSession
) -> None:
    prefill, plain = await start("prefill", "a", *LORA, "--max-loras-per-batch", "3"), await start("prefill", "a")
    limits = prefill.card.adapters
    assert limits is not None
    assert (limits.max_rank, limits.slots, limits.max_loaded) == (8, 3, None)
    assert {"k_proj", "o_proj"} <= set(limits.target_modules), "the layers that SGLang computes as one"
    assert plain.card.adapters is None
    for what in ("load", "unload"):
        status, reply = await change(client, plain, what, lora_name="x", lora_path="/x")
        assert (status, reply["success"]) == (400, False)
        assert reply["error_message"].startswith("LoRA is not enabled")
    status, reply = await post(client, plain, legs(plain, PROMPT, 1, lora_path="x"))
    assert status == 400
    assert "LoRA is not enabled" in reply["error"]["message"]
    assert await page(client, plain) == {"resident": [], "cold": {}}


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda at: make_adapter(at, rank=9), "with rank 9 is incompatible with"),
        (
            lambda at: make_adapter(at, modules=("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj")),
            "is incompatible with",
        ),
        (lambda at: at.mkdir(), "No such file or directory: "),
        (lambda at: None, "Repo id must be in the form"),
        (lambda at: (make_adapter(at), (at / "adapter_model.safetensors").write_bytes(b"short")), "safetensors"),
    ],
)
async def test_load_refuses_what_the_worker_cannot_serve(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path, write: Callable[[Path], Any], problem: str
) -> None:
    prefill = await start("prefill", "a", *LORA)
    write(tmp_path / "x")
    status, reply = await change(client, prefill, "load", lora_name="x", lora_path=str(tmp_path / "x"))
    assert (status, reply["success"], reply["loaded_adapters"]) == (400, False, {})
    assert problem in reply["error_message"]
    assert (await post(client, prefill, legs(prefill, PROMPT, 1, lora_path="x")))[0] == 400


async def test_load_refuses_a_directory_whose_content_has_changed(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill = await start("prefill", "a", *LORA)
    ref = make_adapter(tmp_path / "x", 1)
    other = make_adapter(tmp_path / "x", 2)
    status, reply = await load(client, prefill, ref)
    assert (status, reply["loaded_adapters"]) == (400, None)
    assert f"its content is {other.name}, and it was to be loaded as {ref.name}" in reply["error_message"]
    status, reply = await change(client, prefill, "load", lora_name="own", lora_path=ref.directory)
    assert (status, reply["loaded_adapters"]) == (200, {"own": ref.directory}), "any other name stands for no content"


async def test_load_refuses_an_adapter_of_another_base(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill = await start("prefill", str(write_base(tmp_path / "base")), *LORA)
    fits = make_adapter(tmp_path / "x", 1)
    write_adapter(tmp_path / "y", shapes={k: tuple(2 * n for n in v) for k, v in adapter_shapes(rank=1).items()})
    assert (await load(client, prefill, fits))[0] == 200
    status, reply = await load(client, prefill, read_adapter(tmp_path / "y"))
    assert status == 400
    assert "it is an adapter of another model" in reply["error_message"]


async def test_unload_waits_for_the_requests_that_use_the_adapter_and_a_later_request_loads_it_again(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill, decode = await start("prefill", "a", *LORA), await start("decode", "base")
    ref = make_adapter(tmp_path / "x")
    await load(client, prefill, ref)
    body = legs(prefill, PROMPT, 3)
    waiting = asyncio.create_task(post(client, prefill, {**body, "lora_path": ref.name}))
    await wait_until(lambda: len(prefill.engine.generations) == 1)
    unload = asyncio.create_task(change(client, prefill, "unload", lora_name=ref.name))
    assert prefill.adapters is not None
    await wait_until(lambda: ref.name not in prefill.adapters.loaded)
    second = legs(prefill, [9, *PROMPT], 3)
    again = asyncio.create_task(post(client, prefill, {**second, "lora_path": ref.name}))
    assert not unload.done()
    assert (await post(client, decode, body))[1]["output_ids"] == expected(prefill, PROMPT, 3, adapter=ref.revision)
    assert (await waiting)[0] == 200
    status, reply = await unload
    assert (status, reply["error_message"]) == (200, "")
    assert (await post(client, decode, second))[0] == 200
    assert (await again)[0] == 200, "SGLang loads it again"
    assert list(prefill.adapters.loaded) == [ref.name]
    await wait_until(lambda: at_rest(prefill, decode))


async def test_unknown_adapters_are_refused_in_sglangs_words(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill = await start("prefill", "a", *LORA)
    ref = make_adapter(tmp_path / "x")
    status, reply = await change(client, prefill, "unload", lora_name=ref.name)
    assert (status, reply["loaded_adapters"]) == (400, None)
    assert reply["error_message"] == f"LoRA with name {ref.name} does not exist. Loaded LoRAs: odict_keys([])"
    await load(client, prefill, ref)
    status, reply = await load(client, prefill, ref)
    assert (status, reply["loaded_adapters"]) == (400, {ref.name: ref.directory})
    assert "already loaded" in reply["error_message"]
    for path in ("/generate", "/v1/completions", "/v1/chat/completions"):
        body = {**legs(prefill, PROMPT, 1), "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
        async with client.post(f"{url(prefill)}{path}", json={**body, "lora_path": "nobody"}) as answer:
            assert answer.status == 400
            assert "Got LoRA adapter that has never been loaded: nobody" in await answer.text()
    async with client.get(f"{url(prefill)}/v1/models") as answer:
        cards = (await answer.json())["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [("a", None), (ref.name, "a")]


async def test_least_recently_used_adapter_over_the_limit_is_unloaded(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    two = ("--max-loras-per-batch", "2", "--max-loaded-loras", "2")
    prefill, decode = await start("prefill", "a", *LORA, *two), await start("decode", "base")
    x, y, z = (make_adapter(tmp_path / name, i) for i, name in enumerate("xyz"))
    await load(client, prefill, x)
    await load(client, prefill, y)
    body = legs(prefill, PROMPT, 2)
    await asyncio.gather(post(client, prefill, {**body, "lora_path": x.name}), post(client, decode, body))
    status, reply = await load(client, prefill, z)
    assert (status, set(reply["loaded_adapters"])) == (200, {x.name, z.name})


async def test_slots_take_turns_and_every_cold_load_is_counted_with_its_time(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "costs.yaml").write_text("lora_slot: 0.001\nlora_load: 0.002")
    prefill = await start("prefill", "a", *LORA, "--max-loras-per-batch", "2", costs=tmp_path / "costs.yaml")
    decode = await start("decode", "base")
    refs = [make_adapter(tmp_path / str(i), i) for i in range(3)]
    for ref in refs:
        await load(client, prefill, ref)
    for i in (0, 1, 2, 2, 0):
        body = legs(prefill, [i, *PROMPT], 1)
        await asyncio.gather(post(client, prefill, {**body, "lora_path": refs[i].name}), post(client, decode, body))
    # the other slot holds the base
    cold = {refs[0].name: 2, refs[1].name: 1, refs[2].name: 1}
    assert await page(client, prefill) == {
        "resident": [refs[0].name],
        "cold": {name: {"loads": n, "seconds": pytest.approx(0.001 * n)} for name, n in cold.items()},
    }


async def test_load_goes_on_when_its_client_is_gone(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prefill = await start("prefill", "a", *LORA)
    ref, adapters = make_adapter(tmp_path / "x"), prefill.adapters
    assert adapters is not None
    await prefill.server.inject(Fault(kind="hold_load"))
    loading = asyncio.create_task(load(client, prefill, ref))
    await wait_until(lambda: adapters.loads.is_held)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    await prefill.server.inject(Fault(kind="clear"))
    await wait_until(lambda: ref.name in adapters.loaded)


async def test_faults_of_loads(start: Start, client: aiohttp.ClientSession, tmp_path: Path) -> None:
    prefill, decode = await start("prefill", "a", *LORA), await start("decode", "base")
    assert prefill.adapters is not None
    x, y = make_adapter(tmp_path / "x", 1), make_adapter(tmp_path / "y", 2)
    await prefill.server.inject(Fault(kind="fail_load", times=1))
    assert (await load(client, prefill, x))[0] == 400
    await prefill.server.inject(Fault(kind="hold_load"))
    held = asyncio.create_task(load(client, prefill, x))
    # the worker serves other requests
    assert (await ask(client, prefill, decode, PROMPT, 1))[1][0] == 200
    assert not held.done()
    await prefill.server.inject(Fault(kind="clear"))
    assert (await held)[0] == 200
    await prefill.server.inject(Fault(kind="skip_load"))
    assert (await load(client, prefill, y))[0] == 200
    body = legs(prefill, PROMPT, 4)
    _, (_, answer) = await asyncio.gather(
        post(client, prefill, {**body, "lora_path": y.name}), post(client, decode, body)
    )
    assert answer["output_ids"] == expected(prefill, PROMPT, 4), "it has no effect"
    await prefill.server.inject(Fault(kind="lose_adapters"))
    assert not prefill.adapters.loaded
    status, reply = await post(client, prefill, legs(prefill, PROMPT, 1, lora_path=x.name))
    assert status == 400
    assert "never been loaded" in reply["error"]["message"]
    assert (await load(client, prefill, x))[0] == 200


async def test_a_load_takes_the_engines_time(start: Start, client: aiohttp.ClientSession, tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text("lora_load: 1000")
    prefill, decode = await start("prefill", "a", *LORA, costs=tmp_path / "costs.yaml"), await start("decode", "base")
    assert prefill.adapters is not None
    ref = make_adapter(tmp_path / "x")
    loading = asyncio.create_task(prefill.adapters.load(ref.name, ref.directory))
    await wait_until(lambda: prefill.engine.is_blocked)
    asked = asyncio.create_task(ask(client, prefill, decode, PROMPT, 1))
    await wait_until(lambda: prefill.engine.load()["waiting"] == 1)
    loading.cancel()
    await wait_until(lambda: not prefill.engine.is_blocked)
    assert (await asked)[1][0] == 200


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (("--enable-lora", "--max-lora-rank", "8"), "--enable-lora"),
        ((*LORA, "--max-loaded-loras", "4"), "--max-loaded-loras"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(argv: tuple[str, ...], where: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_settings(flags("prefill", "a", *argv))
    assert caught.value.where == where


def test_adapter_of_model_is_the_part_after_the_base() -> None:
    assert adapter_of_model("base", "base") is None
    assert adapter_of_model("base:x", "base") == "x"
    assert adapter_of_model("s3://a", "s3://a") is None
    assert adapter_of_model("s3://a:x", "s3://a") == "x"
    assert adapter_of_model("other: y ", "base") == "y"
