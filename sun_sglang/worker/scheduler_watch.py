"""Detection of crashed processes of an SGLang server, those that SGLang does not watch included."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, MutableMapping
from typing import Any


class HiddenScheduler:
    """A scheduler that a data-parallel controller started, with the process attributes that SGLang's watchdog reads.

    Args:
        pid: id of the process.

    Attributes:
        pid: id of the process.
        exitcode: never 0: SGLang stops the watchdog before it ends its schedulers, and only a parent reads a status.
    """

    exitcode: None = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = select.poll()
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1
        else:
            self._ended.register(self._fd, select.POLLIN)

    def is_alive(self) -> bool:
        """Return whether the process runs; False also if it has ended and its parent has not read its status."""
        return self._fd != -1 and not self._ended.poll(0)


def watch_schedulers(watchdog: Any, pids: Iterable[int]) -> None:
    """Make SGLang's watchdog end the server also if a scheduler crashes that a data-parallel controller started.

    Otherwise such a crash is not detected, and the scheduler's share of the requests waits for the deadline.

    Args:
        watchdog: SGLang's `SubprocessWatchdog` (`utils/watchdog.py`); None if the server has none.
        pids: ids of all scheduler processes.
    """
    if watchdog is None:
        return
    watched = {process.pid for process in watchdog._processes}
    for pid in pids:
        if pid not in watched:
            # the watchdog's thread zips the two lists, so the name is added first
            watchdog._names.append(f"scheduler of process {pid}")
            watchdog._processes.append(HiddenScheduler(pid))


def crashed_process(watchdog: Any) -> str | None:
    """Return the name of a scheduler or detokenizer process that has crashed; None if all run.

    SGLang's watchdog checks once a second; until then its HTTP server answers although the worker is dead.

    Args:
        watchdog: SGLang's `SubprocessWatchdog` (`utils/watchdog.py`); None if the server has none.
    """
    if watchdog is None:
        return None
    for process, name in zip(watchdog._processes, watchdog._names, strict=True):
        if not process.is_alive() and process.exitcode != 0:
            return str(name)
    return None


def skip_core_dumps(environ: MutableMapping[str, str]) -> None:
    """Make SGLang end at once after a crash, unless the environment enables core dumps of the CUDA driver.

    SGLang waits a minute for core dumps while a rank of the server lives (`tokenizer_manager.py`:
    `dump_requests_before_crash`), even if none is written. Meanwhile the worker answers no request and holds
    its memory.
    """
    if environ.get("CUDA_ENABLE_USER_TRIGGERED_COREDUMP") != "1":
        environ.setdefault("SGLANG_CUDA_COREDUMP_BEFORE_CRASH", "0")
