"""The kind of a task's weights, as messages, log events and labels name it. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from sun_sglang.contracts.module import ModuleRef, TaskWeights

Kind: TypeAlias = Literal["adapter", "module"]


def kind_of(weights: TaskWeights) -> Kind:
    """Return the kind of weights."""
    return "module" if isinstance(weights, ModuleRef) else "adapter"
