"""Launch settings of FSDP2 and DeepSpeed that cannot train a recipe, and the ones that the recipe completes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import RecipeError
from sun_sglang.train.modules import build_modules
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare
from sun_sglang.train.trainer import deepspeed
from sun_sglang.train.trainer.settings import FitSettings
from sun_sglang.train.trainer.trainer import fit


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
        ({"zero_optimization": {"stage": 0}}, "stage of ZeRO must be 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "`offload_optimizer`"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "`offload_param`"),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lamb"}}, "`optimizer` is set by the recipe"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "`bf16` is set by the recipe"),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}, "`gradient_clipping` is set by the recipe"),
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
        with pytest.raises(RecipeError, match="`gradient_clipping` is set by the recipe"):
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
    monkeypatch.setattr("sun_sglang.train.trainer.settings.TrainingArguments", lambda **_arguments: Alone())
    with pytest.raises(RecipeError, match="accelerate trains separately in each of the 2 processes"):
        fit(module, prepared.examples.train, prepared.examples.validation, FitSettings(1e-2, 4), pad=0)


class Alone:
    """Arguments of a process without siblings."""

    world_size = 1
