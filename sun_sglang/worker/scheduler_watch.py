"""Which processes of an SGLang server have crashed, also those that SGLang itself does not look at."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, MutableMapping
from typing import Any


class HiddenScheduler:
    """A scheduler that a data-parallel controller started, as SGLang's watchdog looks at a process.

    Attributes:
        pid: its id.
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
        """Return whether it runs; a process whose parent has not read its status does not."""
        return self._fd != -1 and not self._ended.poll(0)


def watch_schedulers(watchdog: Any, pids: Iterable[int]) -> None:
    """Make SGLang's watchdog end the server also for a scheduler that a data-parallel controller started.

    Nobody notices otherwise that such a scheduler was killed, and its share of the requests waits for the deadline.

    Args:
        watchdog: SGLang's `SubprocessWatchdog` (`utils/watchdog.py`); None where there is none.
        pids: ids of all scheduler processes.
    """
    if watchdog is None:
        return
    watched = {process.pid for process in watchdog._processes}
    for pid in pids:
        if pid not in watched:
            # the watchdog's thread pairs the two lists, up to the end of the shorter one
            watchdog._names.append(f"scheduler of process {pid}")
            watchdog._processes.append(HiddenScheduler(pid))


def ended_process(watchdog: Any) -> str | None:
    """Return the name of a scheduler or detokenizer process that has crashed; None if all run.

    SGLang's own watchdog looks once a second; until then its HTTP server answers for a worker that is dead.

    Args:
        watchdog: SGLang's `SubprocessWatchdog` (`utils/watchdog.py`); None where there is none.
    """
    if watchdog is None:
        return None
    for process, name in zip(watchdog._processes, watchdog._names, strict=True):
        if not process.is_alive() and process.exitcode != 0:
            return str(name)
    return None


def skip_core_dumps(environ: MutableMapping[str, str]) -> None:
    """Make SGLang end at once after a crash, unless the CUDA driver was told to write core dumps.

    SGLang waits a minute for them while a rank of the server is left (`tokenizer_manager.py`:
    `dump_requests_before_crash`), also where none will come. The worker answers nobody meanwhile and holds its memory.
    """
    if environ.get("CUDA_ENABLE_USER_TRIGGERED_COREDUMP") != "1":
        environ.setdefault("SGLANG_CUDA_COREDUMP_BEFORE_CRASH", "0")
