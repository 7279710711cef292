"""Set-up for tests that import compressed-tensors: it imports transformers, which imports torchvision."""

from __future__ import annotations

from sun_sglang.cpu import define_torchvision_schemas

define_torchvision_schemas()
