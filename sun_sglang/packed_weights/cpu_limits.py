"""The layers that torch's 4-bit kernel for CPUs takes (`aten/src/ATen/native/LinearAlgebra.cpp`). Pure, without torch.

The kernel's formula is `(integer - 8) * scale + zero`, and the scales follow the order of the inputs. Zero points would
fit the formula, with the rounding of their products to bfloat16; a layer with zero points is unpacked instead.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUP_SIZES = (32, 64, 128, 256)
ROWS = 16


@dataclass(frozen=True)
class LayerFormat:
    """The format of one quantised linear layer.

    Attributes:
        num_bits: bits of one integer.
        group_size: inputs that share a scale; None for one scale for each row.
        symmetric: whether the layer has no zero points.
        permuted: whether the groups do not follow the order of the inputs (`actorder: group`).
    """

    num_bits: int
    group_size: int | None
    symmetric: bool = True
    permuted: bool = False


def why_unpacked(layer: LayerFormat) -> str:
    """Return the reason why the kernel takes no layer of this format, whatever its shape; empty where it takes some."""
    if layer.num_bits != 4:
        return f"it takes integers of 4 bits, not of {layer.num_bits}"
    if not layer.symmetric:
        return "it takes symmetric weights, without zero points"
    if layer.permuted:
        return "it takes groups in the order of the inputs, not `actorder: group`"
    if layer.group_size not in GROUP_SIZES:
        found = "one scale for each row" if layer.group_size is None else f"groups of {layer.group_size}"
        return f"it takes groups of {', '.join(map(str, GROUP_SIZES))}, not {found}"
    return ""


def why_shape_unpacked(rows: int, columns: int, layer: LayerFormat) -> str:
    """Return the reason why the kernel does not take a layer of this shape; empty where it takes it.

    Args:
        rows: outputs of the layer, those that are fused to it included.
        columns: inputs of the layer.
        layer: its format.
    """
    if reason := why_unpacked(layer):
        return reason
    if rows % ROWS:
        return f"it takes outputs in multiples of {ROWS}, not {rows}"
    assert layer.group_size is not None
    return f"its groups of {layer.group_size} do not divide {columns} inputs" if columns % layer.group_size else ""
