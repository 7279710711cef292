"""Accept compressed-tensors W4A16 weights without a GPU.

SGLang asks CUDA for a compute capability before it takes any scheme, and the question itself fails without a GPU. Its
only scheme with 8 or 4 bits for each weight and full-precision activations needs capability 8.0 for Marlin; on a CPU,
`load.py` and `apply.py` replace Marlin. Every other scheme remains refused. `sun check` refuses them first
(`launch/planning/cpu_weights.py`).
"""

from __future__ import annotations

from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on


def inactive_reason() -> str | None:
    """Return why this process does not need the hooks on W4A16; None without a GPU."""
    return "this machine has a GPU" if has_gpu() else None


def accept_w4a16(_config: Any, min_capability: int, error: bool = True) -> bool:
    """Return whether a scheme runs on this CPU.

    Args:
        _config: SGLang's configuration of compressed-tensors.
        min_capability: the compute capability that the scheme's kernels need.
        error: whether to raise where it does not run.

    Raises:
        RuntimeError: it does not run, and `error` is set.
    """
    from sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16 import (
        CompressedTensorsWNA16,
    )

    accepted: bool = min_capability == CompressedTensorsWNA16.get_min_capability()
    if error and not accepted:
        raise RuntimeError(
            "of the compressed-tensors schemes a CPU serves weight-only integers (W4A16) alone, and this one needs a "
            f"GPU of compute capability {min_capability / 10}"
        )
    return accepted


PATCH = Patch(
    name="weights.schemes",
    target="sglang.srt.layers.quantization.compressed_tensors.compressed_tensors."
    "CompressedTensorsConfig._check_scheme_supported",
    parameters=(("self", "min_capability", "error"),),
    kind="replace",
    hook=accept_w4a16,
    why="SGLang asks CUDA for a compute capability, which fails without a GPU",
    versions=on("accepts W4A16 on a CPU"),
    removable_when="when SGLang serves compressed-tensors W4A16 on a CPU",
    inactive_reason=inactive_reason,
)
