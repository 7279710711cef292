"""A module is read from plain files alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.checkpoint.module.fit import require_module_fits
from sun_sglang.checkpoint.module.read import read_module
from sun_sglang.errors import CheckpointError

Write = Callable[..., Path]


@pytest.mark.parametrize("name", ["model-2.safetensors", "sun.json", "tokenizer.json"])
def test_pipe_or_device_in_a_module_is_an_error_and_is_not_read(write_checkpoint: Write, name: str) -> None:
    piped, linked, own = (write_checkpoint(model) for model in ("piped", "linked", "own"))
    for module in (piped, linked):
        (module / name).unlink(missing_ok=True)
    os.mkfifo(piped / name)
    # it has no end
    (linked / name).symlink_to("/dev/zero")
    for module in (piped, linked):
        with pytest.raises(CheckpointError, match=rf"{name}: is neither a file nor a directory"):
            read_module(module)
        with pytest.raises(CheckpointError, match=rf"{name}: is neither a file nor a directory"):
            require_module_fits(module, own, {})


def test_links_and_other_files_beside_a_module_do_not_matter(write_checkpoint: Write, tmp_path: Path) -> None:
    module = write_checkpoint("a")
    (module / "original").mkdir()
    (module / "lost").symlink_to(tmp_path / "nowhere")
    read_module(module)
