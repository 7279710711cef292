"""A training in two processes that is cut short and resumed, and one that diverges in one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from tests.support.training import assert_tuned_alike

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_resume_from_the_whole_checkpoint_and_end_at_a_loss_of_one_that_is_not_finite(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def write(name: str, **change: Any) -> str:
        loaded = recipe(output=f"./{name}", save_steps=2, **change)
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps(loaded.model_dump(mode="json", exclude_defaults=True)))
        return str(file)

    run_sweep(prepare(recipe(output="./one", learning_rates=[1e-2])), "c", lambda _line: None)
    two, diverging = write("two", learning_rates=[1e-2]), write("diverging", learning_rates=[1e-2, 5e-3])
    script = str(Path(__file__).with_name("interrupted_ranks.py"))
    command = [sys.executable, *TORCHRUN, script, two, diverging]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "checkpoint-4 was cut short or changed, and is not used" in done.stdout
    assert_tuned_alike(tmp_path / "one", tmp_path / "two")
    losses = json.loads((tmp_path / "diverging" / "training" / "search.json").read_text())["losses"]
    assert losses["0.01"] is None
    assert losses["0.005"] > 0
    assert json.loads((tmp_path / "diverging" / "sun.json").read_text())["learning_rate"] == 5e-3
