"""A model from `sun train`, served: its greedy tokens equal those of the offline two-module forward."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import pytest
import yaml

from sun_sglang.cli.main import main
from sun_sglang.demo.tasks import order
from sun_sglang.train.data.examples import draw, write_jsonl
from tests.engine.conftest import Reference, gather, generate, launch, stop
from tests.engine.precision import PRECISION


def sun_train(recipe: Path) -> None:
    """Run `sun train` in this process, which has imported what it uses."""
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), "--threads", "1"])
    assert not ended.value.code


@pytest.mark.invariant("I21")
async def test_a_task_from_sun_train_is_served_as_it_was_trained(models: Path, tmp_path: Path) -> None:
    base = models / "qwen3-base"
    write_jsonl(tmp_path / "train.jsonl", draw(order, "train", 160, 0))
    recipe = {
        "base": str(base),
        "output": "./tuned",
        "data": {"file": "train.jsonl", "messages": "messages", "response": "answer"},
        "learning_rates": [1e-3],
        "global_batch": 16,
        "micro_batch": 16,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    sun_train(tmp_path / "recipe.yaml")

    topology = {
        "pools": {
            "base": {"role": "decode", "model": str(base)},
            "tuned": {"role": "prefill", "model": "./tuned"},
        },
        "tasks": {"order": {"prefill": "tuned", "decode": "base"}},
        "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 4096},
        "router": {"port": 0},
    }
    (tmp_path / "sun.yaml").write_text(yaml.safe_dump(topology))
    reference = Reference(tmp_path / "tuned", base)
    rng = random.Random(0)
    prompts = [[rng.randrange(5, 261) for _ in range(rng.randint(3, 60))] for _ in range(8)]
    untuned = Reference(base, base)
    assert [reference.answer(p, 24) for p in prompts] != [untuned.answer(p, 24) for p in prompts]

    run_dir = tmp_path / "run"
    deployment = launch(tmp_path / "sun.yaml", run_dir)
    try:
        async with httpx.AsyncClient(base_url=deployment.url, timeout=60) as client:
            replies = await gather(*(generate(client, "order", prompt, 24) for prompt in prompts))
    finally:
        stop(run_dir, "--now")
    for prompt, reply in zip(prompts, replies, strict=True):
        reference.check(prompt, reply["output_ids"])
    reference.require_few_ties()
