"""Compare packed integer weights (compressed-tensors' `pack-quantized`) with the layers that they stand for. Pure.

SGLang leaves a layer's scales as they are in memory where the checkpoint lacks them, and answers with garbage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.checkpoint.completeness.comparison import Shape
from sun_sglang.checkpoint.completeness.stored import StoredTensor
from sun_sglang.packed_weights.names import GROUP_OF, PACKED, PARTS, SCALE, SHAPE, ZERO, is_permuted

# integers of these bits fill a word in every version of compressed-tensors
_BITS = (4, 8)


class _Format(NamedTuple):
    bits: int
    group_size: int | None
    symmetric: bool
    permuted: bool

    def shapes(self, rows: int, columns: int) -> dict[str, Shape]:
        """Return the shapes of the tensors of a layer in this format, by the last part of their names."""
        groups = columns // (self.group_size or columns)
        shapes: dict[str, Shape] = {
            PACKED: (rows, -(-columns * self.bits // 32)),
            SCALE: (rows, groups),
            SHAPE: (2,),
        }
        if not self.symmetric:
            shapes[ZERO] = (-(-rows * self.bits // 32), groups)
        if self.permuted:
            shapes[GROUP_OF] = (columns,)
        return shapes

    def __str__(self) -> str:
        grid = f"groups of {self.group_size}" if self.group_size else "one scale for each row"
        return f"{self.bits} bits, {grid}" + ("" if self.symmetric else ", zero points")


def is_packed_format(quantization: Mapping[str, Any]) -> bool:
    """Return whether every quantised layer of a checkpoint is packed, so that the other tensors are full weights.

    Args:
        quantization: its `quantization_config`.
    """
    groups = quantization.get("config_groups")
    if quantization.get("quant_method") != "compressed-tensors" or not isinstance(groups, Mapping) or not groups:
        return False
    return all(
        isinstance(group, Mapping) and (group.get("format") or quantization.get("format")) == "pack-quantized"
        for group in groups.values()
    )


def packed_problem(
    needed: Mapping[str, Shape], stored: Mapping[str, StoredTensor], quantization: Mapping[str, Any]
) -> str:
    """Return what is wrong with the packed weights of a checkpoint, as a sentence with its fix; empty for nothing.

    Args:
        needed: shapes of the architecture's tensors by name.
        stored: the checkpoint's tensors by name.
        quantization: its `quantization_config`; empty if it has none.
    """
    packed = next((name for name in stored if name.endswith(f".{PACKED}")), None)
    if not quantization:
        if packed is None:
            return ""
        return (
            f"`{packed}` is a quantised weight, and config.json has no `quantization_config`; use the config.json that "
            "belongs to these weights"
        )
    if not is_packed_format(quantization):
        return ""
    formats = [_format(group.get("weights")) for group in quantization["config_groups"].values()]
    known = [found for found in formats if found is not None]
    for name, shape in needed.items():
        layer = name.removesuffix(".weight")
        found = {part: stored[f"{layer}.{part}"] for part in PARTS if f"{layer}.{part}" in stored}
        if layer == name or len(shape) != 2 or not found:
            continue
        if name in stored:
            return f"holds `{name}` twice, in full and packed; quantise the model again"
        if len(known) == len(formats) and (problem := _layer_problem(layer, shape, found, known)):
            return problem
    return ""


def _layer_problem(layer: str, shape: Shape, found: Mapping[str, StoredTensor], formats: list[_Format]) -> str:
    """Return why a layer is in none of the formats; which one is meant follows from patterns of names."""
    problem = ""
    for form in formats:
        wanted = form.shapes(*shape)
        other = next((part for part in wanted if part not in found or found[part].shape != wanted[part]), None)
        if other is None:
            return ""
        has = f"has the shape {list(found[other].shape)}" if other in found else "is missing"
        problem = problem or (
            f"`{layer}.{other}` {has}, and config.json requires {list(wanted[other])} ({form}); use the config.json "
            "that belongs to these weights, or quantise the model again"
        )
    return problem


def _format(weights: Any) -> _Format | None:
    """Return the format of a group's weights; None where its shapes are not known here."""
    if not isinstance(weights, Mapping):
        return None
    bits, size, strategy = weights.get("num_bits"), weights.get("group_size"), weights.get("strategy")
    if not isinstance(bits, int) or bits not in _BITS or strategy not in ("group", "channel"):
        return None
    if strategy == "group" and (not isinstance(size, int) or size < 1):
        return None
    return _Format(
        bits,
        size if strategy == "group" else None,
        bool(weights.get("symmetric", True)),
        is_permuted(weights.get("actorder")),
    )
