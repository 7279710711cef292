"""The room of one worker on this machine: its HTTP port, its GPUs and its log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from sun_sglang.launch.places.local.child import log_size
from sun_sglang.launch.places.place import Address, Needs


class LocalSlot:
    """The slot of one worker.

    Args:
        worker: its name.
        address: host and HTTP port of all of its starts.
        needs: what it occupies.
        wait_for_gpus: waits for the GPUs of a worker that has ended, and returns a sentence about those that stay busy.
    """

    def __init__(
        self, worker: str, address: Address, needs: Needs, wait_for_gpus: Callable[[str], Awaitable[str]]
    ) -> None:
        self.worker = worker
        self.address = address
        self.needs = needs
        self._wait_for_gpus = wait_for_gpus
        self._log: Path | None = None
        self._log_begin: int | None = None

    async def wait_free(self) -> None:
        """Wait until the GPUs are free, and write a line to the worker's log about those that stay busy.

        The line explains the memory that the next start logs, so it belongs to that start's output.
        """
        if self._log is None:
            return
        self._log_begin = log_size(self._log)
        if note := await self._wait_for_gpus(self.worker):
            # a full disk loses this line only
            with suppress(OSError), self._log.open("a", encoding="utf-8") as log:
                log.write(f"sun launch: {note}\n")

    def begin_log(self, log: Path) -> int:
        """Note the log of a start, and return the byte at which the output of that start begins."""
        begin = log_size(log) if self._log_begin is None else self._log_begin
        self._log, self._log_begin = log, None
        return begin
