"""Fork the processes of a forked worker, except those that a data-parallel controller starts.

SGLang starts schedulers and detokenizers with multiprocessing's `spawn`, and each of them imports all modules again. A
worker of the launcher's fork server has imported them, and has neither threads nor a CUDA context yet, so it may fork.
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


def inactive_reason(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why this process does not need the hook; None in a worker of a fork server, which sets the variable."""
    return None if environ.get(FORK_VARIABLE) == "1" else "this process was not forked"


def choose_fork(*_args: Any, **_kwargs: Any) -> None:
    """Switch to `fork` right before the schedulers start.

    Raises:
        PatchError: a CUDA context or a thread exists, so that a fork is not safe.
    """
    require_forkable()
    multiprocessing.set_start_method("fork", force=True)


def choose_spawn(*_args: Any, **_kwargs: Any) -> None:
    """Switch back to `spawn` in a data-parallel controller, which starts its schedulers from threads."""
    multiprocessing.set_start_method("spawn", force=True)


def require_forkable() -> None:
    """Raise unless a fork of this process can use CUDA and acquire every lock.

    Raises:
        PatchError: a CUDA context or a thread exists.
    """
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no annotation here
        raise PatchError("patch `fork_schedulers`: CUDA was initialised before the fork; use `--start plain`")
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if threads:
        raise PatchError(f"patch `fork_schedulers`: threads {threads} run before the fork; use `--start plain`")


SERVER = Patch(
    name="fork_schedulers.server",
    target="sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes",
    parameters=(("cls", "server_args", "port_args", "run_scheduler_process_func", "placement_group"),),
    kind="before",
    hook=choose_fork,
    why="`spawn` would import torch and SGLang again in every process of every worker",
    versions=on("forks the processes of a forked worker"),
    removable_when="when SGLang lets its caller choose multiprocessing's start method",
    inactive_reason=inactive_reason,
)
CONTROLLER = Patch(
    name="fork_schedulers.controller",
    target="sglang.srt.managers.data_parallel_controller.run_data_parallel_controller_process",
    parameters=(
        ("server_args", "port_args", "pipe_writer", "run_scheduler_process_func"),
        ("server_args", "port_args", "pipe_writer", "run_scheduler_process_func", "prelaunched_schedulers"),
    ),
    kind="before",
    hook=choose_spawn,
    why="a scheduler that is forked while threads run may wait for ever for a lock that one of them holds",
    versions=on("spawns the schedulers of a data-parallel controller"),
    removable_when=SERVER.removable_when,
    inactive_reason=inactive_reason,
)
