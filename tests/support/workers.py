"""Worker plans that more than one test package uses."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.launch.planning.plan import WorkerPlan


def decode_worker(directory: Path) -> WorkerPlan:
    """Return the plan of a worker that is not started; its log is in `directory`."""
    return WorkerPlan(
        name="base-0",
        pool="base",
        role="decode",
        gpus=(),
        threads=1,
        env={},
        argv=(),
        needs_nccl_port=True,
        log=directory / "log",
        module="sun_sglang.worker.server",
        forkable=True,
    )
