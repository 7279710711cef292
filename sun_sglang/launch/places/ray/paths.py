"""The files and directories that a worker reads. Pure but for looks at this machine's files."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.launch.planning.plan import WorkerPlan


def paths_of(worker: WorkerPlan) -> tuple[str, ...]:
    """Return the absolute paths in a worker's flags that exist on this machine, which its own machine must have, too.

    A value may have a name before its path (`NAME=PATH`).
    """
    values = (value.partition("=")[2] if "=/" in value else value for value in worker.argv)
    return tuple(dict.fromkeys(value for value in values if value.startswith("/") and Path(value).exists()))
