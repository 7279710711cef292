"""The process group of a worker: signals to it, and its end.

A worker's first process leads the group, and every process that it starts belongs to it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from sun_sglang.errors import LaunchError
from sun_sglang.processes import group_of

# SGLang's schedulers end with their parent; multiprocessing's tracker ends after them and removes their shared memory
_GRACE_S = 5.0
# the kernel unpins and unmaps all memory of a killed process before it is gone
_PATIENCE_S = 30.0
_LOOK_S = 0.05
_TRACKER = b"multiprocessing.resource_tracker"


def signal_group(group: int, number: signal.Signals) -> None:
    """Send SIGKILL to all processes of a group, and any other signal to its leader; no error where there are none.

    An SGLang server that receives SIGTERM finishes its running requests first, and needs its schedulers for that. They
    have no handler: SIGTERM would end them at once.

    SIGKILL spares multiprocessing's resource tracker, which ends by itself after it has removed shared memory of the
    others. `end_group` kills a tracker that stays.
    """
    if number != signal.SIGKILL:
        with suppress(ProcessLookupError):
            os.kill(group, number)
        return
    for pid in group_members(group):
        if not _is_tracker(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


async def end_group(group: int) -> None:
    """Wait until each process of a group has ended; kill those that do not end by themselves.

    Args:
        group: the process group of a leader that has ended; the leader was a child of this session.

    Raises:
        LaunchError: a killed process did not end.
    """
    began = time.monotonic()
    while pids := group_members(group):
        waited = time.monotonic() - began
        if waited >= _GRACE_S + _PATIENCE_S:
            raise LaunchError(
                f"processes {pids} of the last start did not end within {_PATIENCE_S:g} s of SIGKILL (a driver may "
                "hold them); the worker is not started again beside them"
            )
        if waited >= _GRACE_S:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK_S)


def group_members(group: int) -> list[int]:
    """Return the processes of a group of this session that have not ended."""
    wanted = (group, os.getsid(0))
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return sorted(pid for pid in pids if group_of(pid) == wanted)


def _is_tracker(pid: int) -> bool:
    try:
        return _TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
