"""Models, recipes and comparisons for tests of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sun_sglang.demo.tasks import order
from sun_sglang.demo.tokenizer import VOCAB_SIZE, build_tokenizer
from sun_sglang.train.data.examples import draw, write_jsonl
from sun_sglang.train.recipe import Recipe, load_recipe

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM  # isort: skip

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["qwen3", "llama"])
def new_model(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    """Return a function that makes a small float64 model of one architecture from a seed."""

    def build(seed: int) -> Any:
        torch.manual_seed(seed)
        if request.param == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**SIZES)).double()
        return LlamaForCausalLM(LlamaConfig(**SIZES)).double()

    return build


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = Qwen3Config(**{**SIZES, "num_hidden_layers": 2}, eos_token_id=tokenizer.eos_token_id)
    Qwen3ForCausalLM(config).half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_jsonl(directory / "train.jsonl", draw(order, "train", 48, 0))
    write_jsonl(directory / "validation.jsonl", draw(order, "validation", 12, 0))
    return directory


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Return a function that writes and loads a recipe; its arguments replace keys of the recipe."""

    def load(**change: Any) -> Recipe:
        content: dict[str, Any] = {
            "base": str(base),
            "output": "./out",
            "data": {
                "file": str(base / "train.jsonl"),
                "validation_file": str(base / "validation.jsonl"),
                "messages": "messages",
                "response": "answer",
            },
            "learning_rates": [1e-9, 1e-2],
            "global_batch": 8,
            "micro_batch": 4,
            **change,
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(content))
        return load_recipe(file)

    return load


def assert_tuned_alike(first: Path, second: Path, rel: float = 1e-4, atol: float = 2e-3) -> None:
    """Assert that two runs of `sun train` have the same validation loss and, except for rounding, the same weights.

    Args:
        first: output of one run.
        second: output of the other.
        rel: relative tolerance of the loss.
        atol: absolute tolerance of a weight.
    """
    assert validation_loss(second) == pytest.approx(validation_loss(first), rel=rel)
    weights, others = (load_file(path / "model.safetensors") for path in (first, second))
    assert weights.keys() == others.keys()
    for name in weights:
        # half precision rounds; the gradient is the same sum in another order
        torch.testing.assert_close(weights[name], others[name], rtol=0, atol=atol)


def validation_loss(out: Path) -> float:
    """Return the validation loss that `sun train` wrote for the learning rate 0.01."""
    losses = json.loads((out / "training" / "search.json").read_text())["losses"]
    return float(losses["0.01"])
