"""Prepare compressed-tensors W4A16 weights for a CPU after they are loaded; SGLang repacks them for Marlin."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on
from sun_sglang.patches.weights.schemes import inactive_reason

PREPARED = "sun_prepared_weights"
logger = logging.getLogger("sun_sglang")


def prepare_weights(scheme: Any, layer: Any) -> None:
    """Set a layer's prepared weights: an `Int4Layer`, or a dense weight where torch's kernel does not take the layer.

    The parameters stay as the checkpoint has them, so that SGLang can load other weights into them.

    Args:
        scheme: SGLang's `CompressedTensorsWNA16`.
        layer: the linear layer, with every part that is fused to it.
    """
    from sun_sglang.packed_weights.layer import PackedLayer
    from sun_sglang.patches.weights.int4_layer import int4_layer, keeps_dense_copy, why_dense

    config = scheme.kernel_config
    columns = config.partition_weight_shape[0]
    zeros, groups = getattr(layer, "weight_zero_point", None), getattr(layer, "weight_g_idx", None)
    packed = PackedLayer(
        words=layer.weight_packed.data,
        scales=layer.weight_scale.data,
        # the type itself is a mere name without a GPU
        num_bits=32 // scheme.pack_factor,
        columns=columns,
        zero_words=None if zeros is None else zeros.data,
        group_of=None if groups is None else groups.data,
    )
    if reason := why_dense(packed):
        setattr(layer, PREPARED, packed.dense(packed.scales.dtype))
        _log_once(
            logging.WARNING,
            f"{packed.rows} x {columns} weights are kept dense, at the memory and speed of full precision: torch's "
            f"4-bit kernel does not take them: {reason}",
        )
        return
    dense_copy = keeps_dense_copy()
    prepared = int4_layer(packed, dense_copy)
    setattr(layer, PREPARED, prepared)
    _log_once(
        logging.INFO,
        f"{packed.rows} x {columns} weights, groups of {packed.group_size}: torch's 4-bit kernel below "
        f"{prepared.kernel_rows} rows, {'a dense copy' if dense_copy else 'unpacked for the call'} from there on",
    )


@cache
def _log_once(level: int, message: str) -> None:
    """Log a message: a model has many layers of one shape."""
    logger.log(level, "W4A16 on the CPU: %s", message)


PATCH = Patch(
    name="weights.load",
    target="sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16."
    "CompressedTensorsWNA16.process_weights_after_loading",
    parameters=(("self", "layer"),),
    kind="replace",
    hook=prepare_weights,
    why="SGLang repacks 4-bit weights with a GPU kernel",
    versions=on("prepares the weights for torch's 4-bit kernel on a CPU"),
    removable_when="when SGLang serves compressed-tensors W4A16 on a CPU",
    inactive_reason=inactive_reason,
)
