"""Recipes on modules that FSDP2 or DeepSpeed shards over two processes: what one process makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sun_sglang.packed_weights.checkpoint import write_rounded
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from tests.support.training import assert_tuned_alike

# where `make setup` puts it, apart from what everything else imports
DEEPSPEED = Path(sys.prefix) / "deepspeed"
LAUNCH = Path(__file__).parents[3] / "configs" / "train" / "launch"
EVERYTHING: dict[str, Any] = {
    "first_token": "decode",
    "gradient_checkpointing": True,
    "packing_tokens": 1024,
    "global_batch": 24,
    "epochs": 2,
    "save_steps": 2,
}


class Pairs:
    """Recipes that one process trained, and are to be trained by two."""

    def __init__(self, load: Callable[..., Recipe], tmp_path: Path) -> None:
        self._load, self._tmp_path = load, tmp_path

    def add(self, name: str, **change: Any) -> str:
        """Train in this process; gives back the recipe for the others."""
        whole, sharded = (self._load(output=f"./{name}-{kind}", learning_rates=[1e-2], **change) for kind in KINDS)
        run_sweep(prepare(whole), "c", lambda _line: None)
        file = self._tmp_path / f"{name}.yaml"
        file.write_text(json.dumps(sharded.model_dump(mode="json", exclude_defaults=True)))
        return str(file)

    def train(self, launch: str, *arguments: str) -> None:
        """Train in two processes."""
        config = ["--config_file", str(LAUNCH / launch), "--num_processes", "2", "--main_process_port", "0"]
        script = str(Path(__file__).with_name("sharded_on_cpu.py"))
        command = [sys.executable, "-m", "accelerate.commands.launch", *config, script, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(DEEPSPEED)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-8000:]

    def check(self, name: str, rel: float = 1e-4, atol: float = 2e-3) -> None:
        """Assert that loss and weights are the same, and that the weights are a plain checkpoint."""
        whole, sharded = (self._tmp_path / f"{name}-{kind}" for kind in KINDS)
        assert_tuned_alike(whole, sharded, rel, atol)
        models = [AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in (whole, sharded)]
        assert models[0].dtype == models[1].dtype


KINDS = ("whole", "sharded")


@pytest.fixture
def pairs(recipe: Callable[..., Recipe], tmp_path: Path) -> Pairs:
    return Pairs(recipe, tmp_path)


@pytest.fixture
def bfloat16(base: Path, tmp_path: Path) -> str:
    """Write the base in bfloat16."""
    directory = tmp_path / "bfloat16"
    shutil.copytree(base, directory)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def quantized(base: Path, tmp_path: Path) -> str:
    """Write the base with 4-bit weights."""
    write_rounded(base, tmp_path / "quantized", num_bits=4, group_size=16)
    return str(tmp_path / "quantized")


def test_fsdp2_trains_as_one_process_and_resumes(pairs: Pairs, bfloat16: str, quantized: str) -> None:
    plain, everything = pairs.add("plain"), pairs.add("everything", **EVERYTHING)
    full = pairs.add("full", scheme="full", save_steps=2)
    half = pairs.add("half", base=bfloat16, bf16=True, decoder=quantized)
    pairs.train("fsdp2.yaml", plain, everything, full, half)
    for name in ("plain", "everything", "full"):
        pairs.check(name)
    pairs.check("half", rel=2e-3, atol=2e-2)


def test_deepspeed_trains_as_one_process_and_resumes(
    pairs: Pairs, bfloat16: str, quantized: str, tmp_path: Path
) -> None:
    # small parameters would be whole everywhere otherwise, and here all are small
    shard_all = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
    (tmp_path / "zero3.json").write_text(json.dumps(shard_all))
    pairs.train(
        "deepspeed.yaml",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE=1",
        pairs.add("one", clip=0.05),
        "ACCELERATE_DEEPSPEED_ZERO_STAGE=2",
        pairs.add("two", scheme="full", save_steps=2),
        f"ACCELERATE_DEEPSPEED_CONFIG_FILE={tmp_path / 'zero3.json'}",
        pairs.add("three", **EVERYTHING, decoder=quantized),
        pairs.add("three-full", scheme="full", gradient_checkpointing=True),
        pairs.add("three-half", base=bfloat16, bf16=True, scheme="decode_only", first_token="decode", clip=0),
    )
    for name in ("one", "two", "three", "three-full"):
        pairs.check(name)
    pairs.check("three-half", rel=2e-3, atol=2e-2)
