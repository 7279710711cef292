"""Which layers of a checkpoint get 4-bit weights, on which grid, and how many bytes the result has. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from sun_sglang.checkpoint.completeness.stored import StoredTensor
from sun_sglang.errors import QuantizeError
from sun_sglang.quantize.job import BITS

GROUP_SIZES = (32, 64, 128)
"""Group sizes that SGLang's Marlin kernel (`layers/quantization/marlin_utils.py`) and torch's CPU kernel both take."""

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GraniteForCausalLM",
    "Phi3ForCausalLM",
)
"""Dense text models for which llmcompressor 0.13 knows AWQ's layers, tried with small random weights."""

# of a matrix, in Marlin's tiles
_MARLIN_OUTPUTS, _MARLIN_INPUTS = 64, 128
_WEIGHT = re.compile(r"(?P<layer>.*\.layers\.\d+\..*)\.weight")
_BYTES: Mapping[str, int] = {"F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Matrix:
    """A weight that is quantized.

    Attributes:
        name: name of its layer, such as `model.layers.0.mlp.up_proj`.
        outputs: its rows.
        inputs: its columns; groups lie along them.
    """

    name: str
    outputs: int
    inputs: int

    def packed_shapes(self, group_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that replace the weight, by name (compressed-tensors `pack-quantized`)."""
        return {
            f"{self.name}.weight_packed": (self.outputs, self.inputs * BITS // 32),
            f"{self.name}.weight_scale": (self.outputs, self.inputs // group_size),
            f"{self.name}.weight_shape": (2,),
        }


@dataclass(frozen=True)
class Plan:
    """What becomes of a checkpoint's tensors.

    Attributes:
        matrices: the weights that are quantized, in the order of the checkpoint.
        group_size: inputs that share one scale.
        size_before: bytes of the tensors now.
        size_after: bytes of the tensors afterwards.
        notes: what the user may not expect.
    """

    matrices: tuple[Matrix, ...]
    group_size: int
    size_before: int
    size_after: int
    notes: tuple[str, ...] = ()


def plan(stored: Mapping[str, StoredTensor], group_size: int) -> Plan:
    """Return what becomes of the tensors of a checkpoint.

    Args:
        stored: its tensors by name.
        group_size: inputs that share one scale; one of `GROUP_SIZES`.

    Raises:
        QuantizeError: the group does not divide a layer's inputs, no tensor is quantized, or a weight is no floating
            point number of 16 or 32 bits.
    """
    matrices = tuple(
        Matrix(found["layer"], *tensor.shape)
        for name, tensor in stored.items()
        if len(tensor.shape) == 2 and (found := _WEIGHT.fullmatch(name))
    )
    if not matrices:
        raise QuantizeError("no decoder layer has a linear layer")
    for matrix in matrices:
        if matrix.inputs % group_size:
            fits = [size for size in GROUP_SIZES if all(m.inputs % size == 0 for m in matrices)]
            fix = f"give --group-size {fits[-1]}" if fits else "no group size that SGLang serves divides every layer"
            raise QuantizeError(
                f"--group-size {group_size} does not divide the {matrix.inputs:,} inputs of `{matrix.name}`; {fix}"
            )
    before, after = 0, 0
    weights = {f"{matrix.name}.weight": matrix for matrix in matrices}
    for name, tensor in stored.items():
        size = prod(tensor.shape) * _width(name, tensor)
        before += size
        if name in weights:
            matrix = weights[name]
            scales = matrix.outputs * (matrix.inputs // group_size) * _width(name, tensor)
            size = matrix.outputs * matrix.inputs * BITS // 8 + scales + 16
        after += size
    return Plan(matrices, group_size, before, after, _notes(matrices))


def _width(name: str, tensor: StoredTensor) -> int:
    width = _BYTES.get(tensor.dtype)
    if width is None:
        raise QuantizeError(
            f"{tensor.file}: `{name}` is stored as {tensor.dtype}; sun quantize reads {', '.join(_BYTES)}"
        )
    return width


def _notes(matrices: tuple[Matrix, ...]) -> tuple[str, ...]:
    odd = next((m for m in matrices if m.outputs % _MARLIN_OUTPUTS or m.inputs % _MARLIN_INPUTS), None)
    if odd is None:
        return ()
    return (
        f"SGLang's GPU kernel (Marlin) takes multiples of {_MARLIN_INPUTS} inputs and {_MARLIN_OUTPUTS} outputs, and "
        f"`{odd.name}` has {odd.inputs:,} and {odd.outputs:,}: a GPU cannot serve this checkpoint",
    )
