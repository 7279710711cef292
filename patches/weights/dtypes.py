"""Accept float32 activations with compressed-tensors weights on a CPU.

The KV of both workers of a pair has one dtype, which is float32 on a processor without bfloat16 arithmetic.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on
from sun_sglang.patches.weights.schemes import inactive_reason


def add_float32(dtypes: list[Any], _config: Any) -> list[Any]:
    """Return SGLang's types of activations, and float32."""
    import torch

    return [*dtypes, torch.float32]


PATCH = Patch(
    name="weights.dtypes",
    target="sglang.srt.layers.quantization.compressed_tensors.compressed_tensors."
    "CompressedTensorsConfig.get_supported_act_dtypes",
    parameters=(("cls",),),
    kind="after",
    hook=add_float32,
    why="a processor without bfloat16 arithmetic serves in float32, which SGLang refuses for these weights",
    versions=on("accepts float32 as well"),
    removable_when="when SGLang serves compressed-tensors W4A16 on a CPU",
    inactive_reason=inactive_reason,
)
