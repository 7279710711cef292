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

from sun_sglang.errors import RecipeError
from sun_sglang.train.modules import build_modules
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from sun_sglang.train.trainer import deepspeed
from sun_sglang.train.trainer.trainer import FitSettings, fit
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
        """Loss and weights are the same, and the weights a checkpoint like any other."""
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
    """The base in bfloat16."""
    directory = tmp_path / "bfloat16"
    shutil.copytree(base, directory)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(directory)
    return str(directory)


def test_fsdp2_trains_as_one_process_and_resumes(pairs: Pairs, bfloat16: str) -> None:
    plain, everything = pairs.add("plain"), pairs.add("everything", **EVERYTHING)
    full = pairs.add("full", scheme="full", save_steps=2)
    half = pairs.add("half", base=bfloat16, bf16=True)
    pairs.train("fsdp2.yaml", plain, everything, full, half)
    for name in ("plain", "everything", "full"):
        pairs.check(name)
    pairs.check("half", rel=2e-3, atol=2e-2)


def test_deepspeed_trains_as_one_process_and_resumes(pairs: Pairs, bfloat16: str, tmp_path: Path) -> None:
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
        pairs.add("three", **EVERYTHING),
        pairs.add("three-full", scheme="full", gradient_checkpointing=True),
        pairs.add("three-half", base=bfloat16, bf16=True, scheme="decode_only", first_token="decode", clip=0),
    )
    for name in ("one", "two", "three", "three-full"):
        pairs.check(name)
    pairs.check("three-half", rel=2e-3, atol=2e-2)


def test_what_fsdp_cannot_do_is_named(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match="set `fsdp_version: 2`"):
        prepare(recipe())
    monkeypatch.setenv("FSDP_VERSION", "2")
    prepare(recipe())
    with monkeypatch.context() as environment:
        environment.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
        with pytest.raises(RecipeError, match="set `fsdp_cpu_ram_efficient_loading: false`"):
            prepare(recipe())
        environment.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
        environment.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
        prepare(recipe(save_steps=1))
        with pytest.raises(RecipeError, match="set `fsdp_state_dict_type: SHARDED_STATE_DICT`"):
            prepare(recipe(save_steps=1, scheme="full"))
    (tmp_path / "empty.jsonl").write_text('{"q": "why", "a": ""}\n' * 2)
    data = {"file": str(tmp_path / "empty.jsonl"), "prompt": "q", "response": "a", "validation": 0.5}
    with pytest.raises(RecipeError, match="data: an answer is empty"):
        prepare(recipe(data=data))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "has no `zero_optimization`"),
        ({"zero_optimization": {"stage": 0}}, "stage of ZeRO has to be 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "`offload_optimizer`"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "`offload_param`"),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lamb"}}, "`optimizer` is decided by the recipe"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "`bf16` is decided by the recipe"),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}, "`gradient_clipping` is decided by the recipe"),
    ],
)
def test_what_deepspeed_cannot_do_is_named(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "deepspeed.json"))
    with pytest.raises(RecipeError, match="cannot be read as JSON"):
        prepare(recipe())
    (tmp_path / "deepspeed.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=said):
        prepare(recipe())


def test_deepspeed_takes_a_base_in_bfloat16_or_float32(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    prepare(recipe())
    with pytest.raises(RecipeError, match="bf16: DeepSpeed cannot train on a base in float16"):
        prepare(recipe(bf16=True))


def test_the_recipe_decides_what_deepspeed_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    config = deepspeed.complete_config(deepspeed.launched_config(), bf16=True, clip=0.5)
    assert config["zero_optimization"]["stage"] == 3
    assert config["gradient_clipping"] == 0.5
    with monkeypatch.context() as environment:
        environment.setenv("ACCELERATE_GRADIENT_CLIPPING", "1.0")
        with pytest.raises(RecipeError, match="`gradient_clipping` is decided by the recipe"):
            deepspeed.launched_config()
    assert (config["bf16"], config["torch_autocast"]["enabled"]) == ({"enabled": False}, True)
    auto = {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}, "bf16": {"enabled": "auto"}, "wandb": {}}
    deepspeed.check_config(auto)
    config = deepspeed.complete_config({**auto, "train_batch_size": "auto"}, bf16=False, clip=0)
    assert config["zero_optimization"] == {"stage": 2}
    assert "train_batch_size" not in config
    assert config["wandb"] == {}
    assert not config["torch_autocast"]["enabled"]


def test_processes_that_would_train_alone_are_refused(
    recipe: Callable[..., Recipe], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(recipe())
    module = build_modules(prepared.recipe, base, base)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sun_sglang.train.trainer.trainer.TrainingArguments", lambda **_arguments: Alone())
    with pytest.raises(RecipeError, match="2 processes were started, and accelerate has each train alone"):
        fit(module, prepared.examples.train, prepared.examples.validation, FitSettings(1e-2, 4), pad=0)


class Alone:
    """Arguments of a process that does not know of another."""

    world_size = 1
