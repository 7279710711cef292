from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from sun_sglang.packed_weights.checkpoint import dense_tensors, write_rounded


class Twins(NamedTuple):
    """A decoder with packed weights, and one with the same weights as plain tensors."""

    packed: Path
    dense: Path


@pytest.fixture(scope="module")
def twins(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Return the base rounded to 3 bits in groups of 16, packed and dense."""
    packed, dense = (tmp_path_factory.mktemp("decoder") / name for name in ("packed", "dense"))
    write_rounded(base, packed, num_bits=3, group_size=16)
    shutil.copytree(base, dense)
    save_file(dict(dense_tensors(packed, torch.float32)), dense / "model.safetensors", metadata={"format": "pt"})
    return Twins(packed, dense)
