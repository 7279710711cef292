"""LoRA adapters on workers without a GPU: greedy answers equal PEFT's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.conftest import Deployment, Reference, gather, load, some_tokens

PREFILL, DECODE = "spare-a-0", "uncached-0"
ADAPTERS = ("x", "y")
LENGTH = 12


@pytest.fixture
def adapters(deployment: Deployment, models: Path, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Load two random adapters into a prefill and a decode worker, and unload them at the end."""
    paths = {name: write_adapter(tmp_path / name, models / "llama-a", seed) for seed, name in enumerate(ADAPTERS)}
    workers = [deployment.process(name).url for name in (PREFILL, DECODE)]
    with httpx.Client(timeout=60, headers=deployment.headers) as client:

        def post(path: str, **body: str) -> None:
            for url in workers:
                reply = client.post(f"{url}/{path}", json=body)
                assert reply.status_code == 200, reply.text

        for name, path in paths.items():
            post("load_lora_adapter", lora_name=name, lora_path=str(path))
        yield paths
        for name in paths:
            post("unload_lora_adapter", lora_name=name)


def write_adapter(path: Path, base: Path, seed: int, *, rank: int = 4) -> Path:
    """Write a random adapter for all linear layers that changes the logits; return its directory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    model.save_pretrained(path)
    return path


def adapted(model: Path, adapter: Path | None) -> Any:
    from copy import deepcopy

    from peft import PeftModel

    base = load(model)
    return base if adapter is None else PeftModel.from_pretrained(deepcopy(base), adapter)


async def test_batch_of_two_adapters_and_none_answers_as_peft(
    deployment: Deployment, models: Path, adapters: dict[str, Path]
) -> None:
    prefill, decode = deployment.process(PREFILL).url, deployment.process(DECODE).url
    chosen = [*ADAPTERS, None, *ADAPTERS]
    prompts = [some_tokens(700 + i, 10 + 7 * i) for i in range(len(chosen))]
    async with httpx.AsyncClient(timeout=60, headers=deployment.headers) as client:
        port = (await client.get(f"{prefill}/sun/worker")).json()["bootstrap_port"]

        async def served(prompt: list[int], adapter: str | None) -> list[int]:
            body = {
                "input_ids": prompt,
                "lora_path": adapter,
                "sampling_params": {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True},
                "bootstrap_host": "127.0.0.1",
                "bootstrap_port": port,
                "bootstrap_room": random.getrandbits(62) + 1,
            }
            legs = await gather(*(client.post(f"{url}/generate", json=body) for url in (prefill, decode)))
            for leg in legs:
                assert leg.status_code == 200, leg.text
            return list(legs[1].json()["output_ids"])

        answers = await gather(*(served(p, a) for p, a in zip(prompts, chosen, strict=True)))
    references = {name: Reference(models / "llama-a", models / "llama-base") for name in (*ADAPTERS, None)}
    for name, path in adapters.items():
        references[name].prefill = adapted(models / "llama-a", path)
        references[name].decode = adapted(models / "llama-base", path)
    for prompt, name, answer in zip(prompts, chosen, answers, strict=True):
        references[name].check(prompt, answer)
        others = [r.answer(prompt, LENGTH) for other, r in references.items() if other != name]
        assert tuple(answer) not in others, "the reference tells adapters apart"
    for reference in references.values():
        reference.require_few_ties()
