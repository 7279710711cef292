"""Full modules that take turns on shared prefill workers: answers through the whole stack equal transformers'."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sun_sglang.bench.gpu_check.models.checkpoints import write_checkpoint
from sun_sglang.bench.polling import wait_until
from sun_sglang.checkpoint.module.host_copies import shared_directory
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module import MODULES_PATH, NOT_HELD, module_namespace
from sun_sglang.contracts.modules_report import ModulesReport
from tests.engine.adapters import adapted, write_adapter
from tests.engine.conftest import (
    ADAPTERS,
    BUSY,
    SIZES,
    Deployment,
    Reference,
    end,
    events_of,
    gather,
    generate,
    launch,
    scheduler_of,
    some_tokens,
)
from tests.engine.precision import PRECISION
from tests.engine.watch import SOON

# of each architecture; the first one is the pools' own model
MODULES = 8
LENGTH = 12
WORKERS = ("llama-0", "llama-1", "qwen3-0", "qwen3-1")
TASKS = tuple(f"{architecture}-m{number}" for architecture in ("llama", "qwen3") for number in range(MODULES))
# the workers of these tests change between any two batches where they can
CHANGE_ALWAYS = Path(__file__).with_name("change_always")


def topology() -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for name in TASKS:
        architecture, _, number = name.partition("-m")
        tasks[name] = {"prefill": architecture, "decode": f"{architecture}-base"}
        if number != "0":
            tasks[name]["model"] = f"./{name}"
    tasks["llama-adapter"] = {"prefill": "llama", "decode": "llama-base", "adapter": "./adapter"}
    # prompts of more than 32 tokens are prefilled in several steps
    engine = {"chunked_prefill_size": 32}
    return {
        "pools": {
            "llama-base": {"role": "decode", "model": "./llama-base"},
            "qwen3-base": {"role": "decode", "model": "./qwen3-base"},
            "llama": {
                "role": "prefill",
                "model": "./llama-m0",
                "replicas": 2,
                "engine": ADAPTERS | engine,
                "modules": {},
            },
            # three of eight modules fit into host memory
            "qwen3": {
                "role": "prefill",
                "model": "./qwen3-m0",
                "replicas": 2,
                "engine": engine,
                "modules": {"host_memory_gb": 0.012},
            },
        },
        "tasks": tasks,
        "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 16384},
        "router": {"port": 0, "first_token_timeout": BUSY},
    }


@pytest.fixture(scope="module")
def many_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of two decoders, their eight modules each, and an adapter."""
    from sun_sglang.cpu import define_torchvision_schemas

    define_torchvision_schemas()
    directory = tmp_path_factory.mktemp("modules")
    for architecture in ("llama", "qwen3"):
        for seed, name in enumerate(("base", *(f"m{number}" for number in range(MODULES)))):
            write_checkpoint(directory / f"{architecture}-{name}", architecture, 50 + seed, "float32", **SIZES)
    write_adapter(directory / "adapter", directory / "llama-m0", 11)
    (directory / "modules.yaml").write_text(yaml.safe_dump(topology(), sort_keys=False))
    return directory


@pytest.fixture(scope="module")
def turns(many_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(CHANGE_ALWAYS), os.environ.get("PYTHONPATH")))))
        launched = launch(many_models / "modules.yaml", tmp_path_factory.mktemp("run"))
    yield launched
    end(launched)
    left = {path.name for path in shared_directory().iterdir()}
    own = {weights_revision(many_models / task) for task in TASKS}
    assert not own & left, "host memory is given back"


@pytest.fixture
async def asked(turns: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=turns.url, timeout=BUSY, headers=turns.headers) as client:
        yield client


@pytest.fixture(scope="module")
def references(many_models: Path) -> dict[str, Reference]:
    found = {name: Reference(many_models / name, many_models / f"{name.partition('-')[0]}-base") for name in TASKS}
    found["llama-adapter"] = Reference(many_models / "llama-m0", many_models / "llama-base")
    found["llama-adapter"].prefill = adapted(found["llama-adapter"].prefill, many_models / "adapter")
    return found


async def report(client: httpx.AsyncClient, turns: Deployment, worker: str) -> ModulesReport:
    return ModulesReport.model_validate((await client.get(f"{turns.process(worker).url}{MODULES_PATH}")).json())


async def changes(client: httpx.AsyncClient, turns: Deployment) -> int:
    reports = await gather(*(report(client, turns, worker) for worker in WORKERS))
    return sum(change.changes for one in reports for change in one.changed.values())


@pytest.mark.invariant("I24")
async def test_modules_of_one_pool_answer_as_transformers_under_load(
    asked: httpx.AsyncClient, turns: Deployment, references: dict[str, Reference]
) -> None:
    rng = random.Random(900)
    # the same prompts for all: nobody's KV or answer is another's; the long ones are prefilled in chunks
    prompts = [some_tokens(901, 20), some_tokens(902, 75)]
    jobs = [(task, prompt) for task in references for prompt in prompts]
    jobs += [(rng.choice(list(references)), some_tokens(910 + i, rng.randrange(3, 120))) for i in range(30)]
    rng.shuffle(jobs)
    before = await changes(asked, turns)
    replies = await gather(*(generate(asked, t, p, LENGTH, stream=i % 3 == 0) for i, (t, p) in enumerate(jobs)))
    # 16 modules passed over 4 workers, most of them several times: batches have 32 tokens
    assert await changes(asked, turns) - before >= len(TASKS) - len(WORKERS)
    for (task, prompt), reply in zip(jobs, replies, strict=True):
        references[task].check(prompt, reply["output_ids"])
    for prompt in prompts:
        answers = {references[task].answer(prompt, LENGTH) for task in references}
        assert len(answers) == len(references), "the reference tells modules apart"
    for task in references:
        references[task].require_few_ties()


async def test_conversations_find_their_prompts_after_changes(
    asked: httpx.AsyncClient, turns: Deployment, references: dict[str, Reference]
) -> None:
    rng = random.Random(930)
    conversations = dict.fromkeys(references, some_tokens(931, 30))
    for turn in range(3):
        before = await changes(asked, turns)
        # one after the other, so that each needs other weights than the one before
        for task, prompt in list(conversations.items()):
            reply = await generate(asked, task, prompt, LENGTH, stream=turn == 1)
            references[task].check(prompt, reply["output_ids"])
            conversations[task] = [*prompt, *reply["output_ids"], *(rng.randrange(5, 260) for _ in range(9))]
        assert await changes(asked, turns) - before >= len(TASKS) - len(WORKERS)
    cached = []
    for task, prompt in conversations.items():
        reply = await generate(asked, task, prompt, LENGTH)
        references[task].check(prompt, reply["output_ids"])
        cached.append(reply["meta_info"]["cached_tokens"])
    assert all(cached), "the radix cache stays over a change"
    for task in conversations:
        references[task].require_few_ties()


async def test_host_memory_holds_what_the_pool_allows(asked: httpx.AsyncClient, turns: Deployment) -> None:
    for task in TASKS:
        await generate(asked, task, some_tokens(940, 10), 2)
    bounded = await report(asked, turns, "qwen3-0")
    assert 0 < len(bounded.held) < MODULES
    assert bounded.host_bytes <= 12_000_000
    # all of them fit in half of the machine's memory
    assert len((await report(asked, turns, "llama-0")).held) == MODULES


async def test_request_for_a_module_that_a_worker_lacks_is_refused(asked: httpx.AsyncClient, turns: Deployment) -> None:
    body = {"input_ids": [5, 6, 7], "extra_key": module_namespace("llama@x", "0" * 16)}
    reply = await asked.post(f"{turns.process('llama-0').url}/generate", json=body)
    assert reply.status_code == 400
    assert NOT_HELD.format(revision="0" * 16) in reply.text
    update = await asked.post(f"{turns.process('llama-0').url}/update_weights_from_disk", json={"model_path": "/x"})
    assert update.status_code == 400
    assert "changes its weights between the modules of tasks by itself" in update.text


async def test_modules_are_added_changed_and_removed_while_others_are_served(
    asked: httpx.AsyncClient, turns: Deployment, many_models: Path, references: dict[str, Reference], tmp_path: Path
) -> None:
    paths = [tmp_path / "live-0", tmp_path / "live-1"]
    for seed, path in enumerate(paths):
        write_checkpoint(path, "llama", 80 + seed, "float32", **SIZES)
    write_checkpoint(tmp_path / "wrong", "llama", 82, "float32", **SIZES | {"intermediate_size": 256})
    live = [Reference(path, many_models / "llama-base") for path in paths]
    prompt, done = some_tokens(950, 30), asyncio.Event()

    async def keep_asking(task: str, seed: int) -> int:
        count = 0
        while not done.is_set():
            own = some_tokens(seed + count, 20)
            references[task].check(own, (await generate(asked, task, own, LENGTH))["output_ids"])
            count += 1
        return count

    others = [asyncio.create_task(keep_asking(task, 1000 * i)) for i, task in enumerate(("llama-m0", "llama-m3"), 9)]
    try:
        settings = {"prefill": "llama", "decode": "llama-base", "name": "live"}
        refused = await asked.post("/tasks", json=settings | {"model": str(tmp_path / "wrong")})
        assert refused.status_code >= 400
        assert "`intermediate_size` is 256" in refused.text
        assert (await asked.post("/generate", json={"model": "live", "input_ids": prompt})).status_code == 404
        added = await asked.post("/tasks", json=settings | {"model": str(paths[0])})
        assert added.status_code == 201, added.text
        live[0].check(prompt, (await generate(asked, "live", prompt, LENGTH))["output_ids"])
        # an answer that began before a change ends as it began
        sampling = {"temperature": 0, "max_new_tokens": 10 * LENGTH, "ignore_eos": True}
        events = events_of(
            asked, "/generate", {"model": "live", "input_ids": prompt, "stream": True, "sampling_params": sampling}
        )
        await anext(events)
        changed = await asked.put("/tasks/live", json={"model": str(paths[1])})
        assert changed.status_code == 200, changed.text
        live[1].check(prompt, (await generate(asked, "live", prompt, LENGTH))["output_ids"])
        *_, last, _end = [event async for event in events]
        live[0].check(prompt, json.loads(last)["output_ids"])
        removed = await asked.delete("/tasks/live")
        assert removed.status_code == 200, removed.text
    finally:
        done.set()
    assert min(await asyncio.gather(*others)) > 0
    revisions = {weights_revision(path) for path in paths}

    async def held() -> set[str]:
        found = await gather(*(report(asked, turns, worker) for worker in ("llama-0", "llama-1")))
        return revisions & {revision for one in found for revision in one.held}

    await wait_until(held, "removed modules leave host memory", within=SOON, accept=lambda left: not left)


async def test_killed_workers_get_their_modules_back(
    asked: httpx.AsyncClient, turns: Deployment, references: dict[str, Reference]
) -> None:
    rng = random.Random(960)
    llama = [task for task in references if task.startswith("llama")]
    done = asyncio.Event()
    answered = 0

    async def keep_asking(seed: int) -> None:
        nonlocal answered
        own = random.Random(seed)
        while not done.is_set():
            task, prompt = own.choice(llama), [own.randrange(5, 260) for _ in range(own.randrange(3, 80))]
            sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}
            reply = await asked.post(
                "/generate", json={"model": task, "input_ids": prompt, "sampling_params": sampling}
            )
            # lost with its worker, or answered by the right module
            assert reply.status_code in (200, 500, 502, 503), reply.text
            if reply.status_code == 200:
                references[task].check(prompt, reply.json()["output_ids"])
                answered += 1

    clients = [asyncio.create_task(keep_asking(seed)) for seed in range(6)]
    try:
        for worker in ("llama-0", "llama-1", "llama-0"):
            before, count = turns.process(worker), answered
            await wait_until(lambda: answered, "answers", within=BUSY, accept=lambda n, c=count: n > c + 5)
            os.kill(scheduler_of(turns, worker).pid, signal.SIGKILL)

            async def restarted(name: str = worker, pid: object = before.pid) -> bool:
                tasks = (await asked.get("/tasks")).json()["tasks"]
                workers = {one["name"]: one["state"] for one in tasks["llama-m0"]["prefill"]["workers"]}
                missing = [one for task in llama for one in tasks[task]["unproven_modules"]]
                return turns.process(name).pid != pid and set(workers.values()) == {"ready"} and not missing

            await wait_until(restarted, "the worker is back with all modules", within=BUSY)
    finally:
        done.set()
    await asyncio.gather(*clients)
    for task in llama:
        prompt = some_tokens(rng.randrange(10**6), 25)
        references[task].check(prompt, (await generate(asked, task, prompt, LENGTH))["output_ids"])
        references[task].require_few_ties()
