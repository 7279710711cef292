"""The layers that a LoRA adapter may change on SGLang's workers, by the last part of their names.

SGLang computes some layers as one: its LoRA has one buffer for `q_proj`, `k_proj` and `v_proj`, and one for `gate_proj`
and `up_proj` (`srt/lora/utils.py`: `get_normalized_target_modules`). A worker that accepts one layer of such a group
accepts all of it.

SGLang's LoRA has more targets (embeddings, the output layer, the projections of latent attention and of state spaces).
Those are not here, and `checkpoint/adapter.py` refuses them: nothing compares them with PEFT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qkv_proj": ("q_proj", "k_proj", "v_proj", "qkv_proj"),
        "o_proj": ("o_proj",),
        "gate_up_proj": ("gate_proj", "up_proj", "gate_up_proj"),
        "down_proj": ("down_proj",),
    }
)
_BUFFER_OF = {name: buffer for buffer, names in _GROUPS.items() for name in names}

SUPPORTED_TARGETS = tuple(_BUFFER_OF)
"""The layers that an adapter may change."""

ALL_TARGETS = "all"
"""The value of `lora_target_modules` that accepts every layer."""

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of a model: the value of `lora_target_modules` for a pool that gets its adapters later."""


def accepted_targets(flag: Iterable[str]) -> tuple[str, ...]:
    """Return the layers that an adapter may change on a worker, sorted.

    Args:
        flag: SGLang's `lora_target_modules`, as a user writes it or as a scheduler resolves it.
    """
    given = set(flag)
    if ALL_TARGETS in given:
        return tuple(sorted(SUPPORTED_TARGETS))
    buffers = {_BUFFER_OF[name] for name in given if name in _BUFFER_OF}
    return tuple(sorted(name for buffer in buffers for name in _GROUPS[buffer]))
