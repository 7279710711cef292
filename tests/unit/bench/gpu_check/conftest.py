"""A context that starts nothing, and small random checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.models.checkpoints import write_checkpoint
from sun_sglang.cpu import define_torchvision_schemas


@pytest.fixture
def new_context(tmp_path: Path) -> Callable[..., Context]:
    """Return a context on the CPU, or on as many GPUs as are named."""

    def new(*gpus: int) -> Context:
        device = "cuda" if gpus else "cpu"
        return Context(device=device, gpus=gpus, work=tmp_path, engine={}, model=None, progress=lambda _: None)

    return new


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write unrelated checkpoints in bfloat16, as large as those of the check."""
    define_torchvision_schemas()
    folder = tmp_path_factory.mktemp("llamas")
    for seed, name in enumerate(("base", "a", "b")):
        write_checkpoint(folder / name, "llama", seed, "bfloat16")
    return {name: folder / name for name in ("base", "a", "b")}
