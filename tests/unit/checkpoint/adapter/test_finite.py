"""Weights that are NaN or infinite are found by their bytes, in each type that is served."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.errors import CheckpointError
from tests.support.adapters import adapter_shapes, weights, write_adapter

NAN, INF = float("nan"), float("inf")
LAST = list(adapter_shapes())[-1]


def packed(dtype: str, value: float) -> bytes:
    """Return a value in a type; a bfloat16 is the upper half of a float32."""
    match dtype:
        case "F32":
            return struct.pack("<f", value)
        case "BF16":
            return struct.pack("<f", value)[2:]
        case _:
            return struct.pack("<e", value)


def adapter_with(at: Path, dtype: str, value: float) -> Path:
    """Write an adapter with one value at the end of its last tensor, and ones elsewhere."""
    one, last = packed(dtype, 1.0), packed(dtype, value)
    content = weights(adapter_shapes(), dtype=dtype, width=len(one))
    length = 8 + int.from_bytes(content[:8], "little")
    values = one * ((len(content) - length) // len(one))
    (write_adapter(at) / "adapter_model.safetensors").write_bytes(content[:length] + values[: -len(last)] + last)
    return at


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_weight_that_is_no_number_is_named_with_its_tensor(tmp_path: Path, dtype: str) -> None:
    for i, value in enumerate((NAN, -NAN, INF, -INF)):
        with pytest.raises(CheckpointError, match=f"`{LAST}` has a value that is NaN or infinite; train"):
            read_adapter(adapter_with(tmp_path / str(i), dtype, value))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("F32", (3.4028234e38, -3.4028234e38, 1e-45, -0.0)),
        ("BF16", (3.3895314e38, -3.3895314e38, 1e-40, -0.0)),
        ("F16", (65504.0, -65504.0, 6e-8, -0.0)),
    ],
)
def test_largest_and_smallest_numbers_are_finite(tmp_path: Path, dtype: str, values: tuple[float, ...]) -> None:
    for i, value in enumerate(values):
        assert read_adapter(adapter_with(tmp_path / str(i), dtype, value)).rank == 2
