"""The topology of the demo's deployment: the demo's own tasks, and the tasks that they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.engine.precision import PRECISION

DEMO = Path(__file__).parents[2] / "configs" / "demo"
TASKS = ("math", "tool")


def with_comparisons() -> dict[str, Any]:
    """Return the demo's own topology with two more tasks for each of its tasks, for comparison.

    `TASK-full` is the full fine-tune with a decode worker of its own; `TASK-naive` has its prefill worker too, and
    shares the demo's decode pool although the fine-tune was not tuned for it.
    """
    topology = yaml.safe_load((DEMO / "sun.yaml").read_text())
    for pool in topology["pools"].values():
        pool["model"] = str((DEMO / pool["model"]).resolve())
    for task in TASKS:
        model = str(DEMO / "models" / f"{task}-full")
        topology["pools"][f"{task}-full"] = {"role": "prefill", "model": model}
        topology["pools"][f"{task}-full-decode"] = {"role": "decode", "model": model}
        topology["tasks"][f"{task}-full"] = {"prefill": f"{task}-full", "decode": f"{task}-full-decode"}
        topology["tasks"][f"{task}-naive"] = {"prefill": f"{task}-full", "decode": "base", "any_decoder": True}
    # the reference computes in float32, which is not what a CPU that multiplies bfloat16 serves in
    topology["engine"]["dtype"] = PRECISION.dtype
    return topology | {"router": {"port": 0}}
