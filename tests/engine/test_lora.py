"""LoRA adapters on workers without a GPU: answers equal PEFT's, and workers load and report adapters by content."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.adapters_report import ADAPTERS_PATH, AdaptersReport
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, WorkerCard
from tests.engine.adapters import adapted, write_adapter
from tests.engine.conftest import ADAPTERS, Deployment, Reference, gather, some_tokens
from tests.support import adapters as small_adapters

PREFILL, DECODE = "spare-a-0", "uncached-0"
NAMES = ("x", "y")
LENGTH = 12


class Workers:
    """A prefill and a decode worker, without the router.

    Attributes:
        prefill: a client of the prefill worker.
        decode: a client of the decode worker.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.prefill, self.decode = (
            httpx.AsyncClient(base_url=deployment.process(name).url, timeout=60, headers=deployment.headers)
            for name in (PREFILL, DECODE)
        )

    async def card(self) -> WorkerCard:
        return WorkerCard.model_validate((await self.prefill.get(WORKER_CARD_PATH)).json())

    async def report(self) -> AdaptersReport:
        return AdaptersReport.model_validate((await self.prefill.get(ADAPTERS_PATH)).json())

    async def load(self, name: str, path: Path, *, sides: Sequence[str] = ("prefill",)) -> str:
        """Load an adapter; return the error, empty for none."""
        errors = ""
        for side in sides:
            body = {"lora_name": name, "lora_path": str(path)}
            reply = await getattr(self, side).post("/load_lora_adapter", json=body)
            assert (reply.status_code == 200) == reply.json()["success"]
            errors += reply.json()["error_message"] or ""
        return errors

    async def unload(self, name: str, *, sides: Sequence[str] = ("prefill",)) -> None:
        for side in sides:
            reply = await getattr(self, side).post("/unload_lora_adapter", json={"lora_name": name})
            assert reply.status_code == 200, reply.text

    async def answer(self, prompt: list[int], prefill: str | None, decode: str | None = None) -> list[int]:
        """Return a greedy answer with an adapter on each side."""
        port = (await self.card()).bootstrap_port
        body = {
            "input_ids": prompt,
            "sampling_params": {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True},
            "bootstrap_host": "127.0.0.1",
            "bootstrap_port": port,
            "bootstrap_room": random.getrandbits(62) + 1,
        }
        legs = await gather(
            self.prefill.post("/generate", json=body | {"lora_path": prefill}),
            self.decode.post("/generate", json=body | {"lora_path": decode}),
        )
        for leg in legs:
            assert leg.status_code == 200, leg.text
        return list(legs[1].json()["output_ids"])


@pytest.fixture
async def workers(deployment: Deployment) -> AsyncIterator[Workers]:
    found = Workers(deployment)
    async with found.prefill, found.decode:
        yield found


@pytest.fixture(scope="module")
def adapters(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the directories of random adapters: two of one rank, one of another, and one of another base."""
    directory = tmp_path_factory.mktemp("adapters")
    return {
        **{name: write_adapter(directory / name, models / "llama-a", seed) for seed, name in enumerate(NAMES)},
        "z": write_adapter(directory / "z", models / "llama-a", 3, rank=7),
        "other": small_adapters.write_adapter(directory / "other"),
    }


async def test_batch_of_two_adapters_and_none_answers_as_peft(
    workers: Workers, models: Path, adapters: dict[str, Path]
) -> None:
    both = ("prefill", "decode")
    for name in NAMES:
        assert await workers.load(name, adapters[name], sides=both) == ""
    chosen = [*NAMES, None, *NAMES]
    prompts = [some_tokens(700 + i, 10 + 7 * i) for i in range(len(chosen))]
    answers = await gather(*(workers.answer(p, a, a) for p, a in zip(prompts, chosen, strict=True)))
    for name in NAMES:
        await workers.unload(name, sides=both)
    references = {name: Reference(models / "llama-a", models / "llama-base") for name in (*NAMES, None)}
    for name in NAMES:
        references[name].prefill = adapted(references[name].prefill, adapters[name])
        references[name].decode = adapted(references[name].decode, adapters[name])
    for prompt, name, answer in zip(prompts, chosen, answers, strict=True):
        references[name].check(prompt, answer)
        others = [r.answer(prompt, LENGTH) for other, r in references.items() if other != name]
        assert tuple(answer) not in others, "the reference tells adapters apart"
    for reference in references.values():
        reference.require_few_ties()


async def test_worker_loads_an_adapter_only_under_the_name_of_its_content_and_on_its_base(
    workers: Workers, adapters: dict[str, Path]
) -> None:
    x, y, other = (read_adapter(adapters[name]).name for name in ("x", "y", "other"))
    assert f"its content is {x}, and it was to be loaded as {y}" in await workers.load(y, adapters["x"])
    assert "it is an adapter of another model" in await workers.load(other, adapters["other"])
    assert await workers.load(x, adapters["x"]) == ""
    assert "already loaded" in await workers.load(x, adapters["x"])
    await workers.unload(x)
    assert len(await workers.answer(some_tokens(731, 20), None)) == LENGTH, "the worker lives"


async def test_worker_counts_cold_loads_and_reports_the_adapters_in_its_slots(
    workers: Workers, adapters: dict[str, Path]
) -> None:
    limits = (await workers.card()).adapters
    assert limits is not None
    assert (limits.max_rank, limits.slots) == (ADAPTERS["max_lora_rank"], ADAPTERS["max_loras_per_batch"])
    names = {key: read_adapter(adapters[key]).name for key in "xyz"}
    for key, name in names.items():
        assert await workers.load(name, adapters[key]) == ""
        assert set(read_adapter(adapters[key]).target_modules) <= set(limits.target_modules)
    before = (await workers.report()).cold
    assert not set(names.values()) & set((await workers.report()).resident), "a load is no copy into a slot"
    # three slots, of which the base has one: the least recently used adapter leaves
    for i, key in enumerate((None, "x", "y", "x", "z", "y")):
        await workers.answer(some_tokens(740 + i, 15), names[key] if key else None)
    report = await workers.report()
    assert set(report.resident) == {names["y"], names["z"]}
    loads = {
        key: report.cold[name].loads - (before[name].loads if name in before else 0) for key, name in names.items()
    }
    assert loads == {"x": 1, "y": 2, "z": 1}
    assert all(report.cold[name].seconds > 0 for name in names.values())
    for name in names.values():
        await workers.unload(name)
    assert not set(names.values()) & set((await workers.report()).resident)
