"""A worker that was forked forks its own processes too.

SGLang starts schedulers and detokenizers with multiprocessing's `spawn`, which imports everything again in each. A
worker that came from the launcher's nursery has it all imported, and has neither threads nor a device yet: it may fork.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from typing import Any

from sun_sglang.errors import PatchError
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

FORK_VARIABLE = "SUN_FORK_SCHEDULERS"


def unneeded(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why this process needs no patch; None in a worker that came from a nursery, which sets the variable."""
    return None if environ.get(FORK_VARIABLE) == "1" else "this process was not forked"


def choose_fork(*_args: Any, **_kwargs: Any) -> None:
    """Switch to `fork` right before the schedulers start.

    Raises:
        PatchError: a CUDA context or a thread exists, so that a forked scheduler could not be trusted.
    """
    require_forkable()
    multiprocessing.set_start_method("fork", force=True)


def require_forkable() -> None:
    """Raise unless a fork of this process may use CUDA and take any lock.

    Raises:
        PatchError: names what stands in the way.
    """
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no annotation here
        raise PatchError("patch `fork_schedulers`: CUDA was initialised before the fork; use `--start plain`")
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if threads:
        raise PatchError(f"patch `fork_schedulers`: threads {threads} run before the fork; use `--start plain`")


PATCH = Patch(
    name="fork_schedulers",
    target="sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes",
    parameters=(("cls", "server_args", "port_args", "run_scheduler_process_func", "placement_group"),),
    kind="before",
    hook=choose_fork,
    why="`spawn` would import torch and SGLang again in every process of every worker",
    versions=on("forks the processes of a forked worker"),
    way_out="when SGLang lets its caller choose multiprocessing's start method",
    unneeded=unneeded,
)
