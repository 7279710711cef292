"""Check what a model directory's `config.json` must say before anything else is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.errors import CheckpointError

# a bound on what is computed for each layer; the deepest models have some hundreds
_MOST_LAYERS = 10_000
_ADAPTER = "adapter_config.json"


def architecture_of(config: Mapping[str, Any], model: Path) -> str:
    """Return the name of the model's class.

    Args:
        config: `config.json`.
        model: directory of the checkpoint, for the message.

    Raises:
        CheckpointError: `architectures` is no list that begins with a name.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            f'{model / "config.json"}: architectures: must be a list such as ["LlamaForCausalLM"] (got {names!r})'
        )
    return names[0]


def layers_of(text: Mapping[str, Any], model: Path) -> int:
    """Return the number of layers.

    Args:
        text: `config.json`, or its `text_config`.
        model: directory of the checkpoint, for the message.

    Raises:
        CheckpointError: it is no whole number from 1 to 10,000.
    """
    count = text["num_hidden_layers"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise CheckpointError(f"{model / 'config.json'}: num_hidden_layers: must be 1 or more (got {count!r})")
    if count > _MOST_LAYERS:
        raise CheckpointError(
            f"{model / 'config.json'}: num_hidden_layers: must be at most {_MOST_LAYERS} (got {count})"
        )
    return count


def require_no_adapter(model: Path) -> None:
    """Raise if a directory holds a LoRA adapter and no model.

    Raises:
        CheckpointError: names the base, and how to merge the adapter into it.
    """
    if (model / "config.json").exists() or not (model / _ADAPTER).exists():
        return
    base = read_json(model / _ADAPTER).get("base_model_name_or_path") or "its base"
    raise CheckpointError(
        f"{model}: is a LoRA adapter of {base}, and a model is needed here; merge the two: "
        "`sun train RECIPE --resume --merge` for an adapter of `sun train`, else `merge_and_unload` of peft, then "
        "`save_pretrained`"
    )
