"""`sun train` in two processes, by torchrun and by accelerate: what one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.packed_weights.checkpoint import write_rounded
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from tests.support.training import assert_tuned_alike


def launch(start: list[str], file: Path, **environment: str) -> None:
    """Run `sun train` in two processes."""
    command = [sys.executable, *start, str(file), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 processes" in done.stderr.replace("\n", " "), "it may have started one"


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--main_process_port",
    "0",
]

QSUN = {"decoder": "./quantized"}


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ([*TORCHRUN, "-m", "sun_sglang.cli", "train"], {"packing_tokens": 1024, "global_batch": 24}),
        ([*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "sun_sglang.cli", "train"], QSUN),
    ],
    ids=["torchrun, packed", "accelerate, padded, a quantised decoder"],
)
def test_two_processes_train_as_one(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path, start: list[str], change: dict[str, Any]
) -> None:
    write_rounded(base, tmp_path / "quantized", num_bits=4, group_size=16)
    common = {"learning_rates": [1e-2], **change}
    one = tmp_path / "one"
    run_sweep(prepare(recipe(output=str(one), **common)), "c", lambda _line: None)
    recipe(output="./two", **common)
    launch(start, tmp_path / "recipe.yaml")
    assert_tuned_alike(one, tmp_path / "two")
