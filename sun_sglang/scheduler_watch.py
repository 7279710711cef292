"""Which processes of an SGLang server have crashed."""

from __future__ import annotations

from typing import Any


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
