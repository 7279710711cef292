"""Gradient checkpointing that keeps the KV cache.

Transformers drops the cache of a layer that it checkpoints (`GradientCheckpointingLayer`), since running the layer
again would append its keys and values twice. The decode module would then never see the prompt, and the loss would stay
finite. Here a layer's keys and values are outputs of the checkpointed function: it receives the cache so far as
tensors, and its new keys and values are appended to the cache outside, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sun_sglang.errors import RecipeError


def recompute_layers(model: torch.nn.Module) -> None:
    """Make every decoder layer of a causal LM run again in the backward pass, with its cache intact.

    Args:
        model: changed in place; its parameters and their names stay the same.

    Raises:
        RecipeError: a layer attends only to a part of the keys, or the layers are of an unknown type.
    """
    config: Any = model.config
    require_full_attention(config, "gradient_checkpointing")
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if len(layers) != config.num_hidden_layers:
        raise RecipeError(f"gradient_checkpointing: {type(model).__name__} has layers of an unknown type; turn it off")
    for index, layer in enumerate(layers):
        layer.forward = _recomputed(layer.forward, index)


def require_full_attention(config: Any, key: str) -> None:
    """Require that every layer attends to all earlier keys.

    Args:
        config: the model's configuration.
        key: the recipe's key that requires it, for the error message.

    Raises:
        RecipeError: a layer attends only to a part of the keys.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None):
        kinds = {"sliding_attention"}
    if kinds - {"full_attention"}:
        raise RecipeError(f"{key}: not supported for layers of {', '.join(sorted(kinds))}; turn it off")


def _recomputed(forward: Callable[..., Any], index: int) -> Callable[..., Any]:
    def run(hidden: torch.Tensor, *, past_key_values: Any = None, **rest: Any) -> Any:
        if past_key_values is None or not torch.is_grad_enabled():
            return forward(hidden, past_key_values=past_key_values, **rest)
        before = past_key_values.layers[index]
        past = (before.keys, before.values) if past_key_values.get_seq_length(index) else (None, None)

        def once(hidden: torch.Tensor, keys: torch.Tensor | None, values: torch.Tensor | None) -> Any:
            own = _OneLayer(keys, values)
            out = forward(hidden, past_key_values=own, **rest)
            assert own.added is not None, "the layer must write its cache"
            return out, *own.added

        out, keys, values = checkpoint(once, hidden, *past, use_reentrant=False)
        past_key_values.update(keys, values, index)
        return out

    return run


class _OneLayer:
    """The cache of one layer: the earlier keys and values, and those that the layer adds."""

    def __init__(self, keys: torch.Tensor | None, values: torch.Tensor | None) -> None:
        self._past = None if keys is None or values is None else (keys, values)
        self.added: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.added = (keys, values)
        if self._past is None:
            return keys, values
        return torch.cat([self._past[0], keys], dim=-2), torch.cat([self._past[1], values], dim=-2)
