"""Reload the key file when it changes. I/O: reads the file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from sun_sglang.router.auth.access import AccessControl
from sun_sglang.router.auth.api_keys import KeyFileError, load_keys
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.watched_file import WatchedFile


class KeyFileWatcher:
    """Replaces the router's keys when their file changes.

    Args:
        path: the file; None if there is none.
        environment: holds `SUN_API_KEYS`, which does not change.
        access: receives the new keys.
        log: reports changes, and files that are refused.
        deadlines: the interval between two checks.
    """

    def __init__(
        self, path: str | None, environment: Mapping[str, str], access: AccessControl, log: Log, deadlines: Deadlines
    ) -> None:
        self._interval = deadlines.file_check
        self._path = path
        self._environment = environment
        self._access = access
        self._log = log

    async def run(self) -> None:
        """Load each new version of the file, until cancelled. An invalid file changes nothing."""
        if self._path is None:
            return
        file, changed = WatchedFile(Path(self._path)), True  # the file may have changed since the router read it
        while True:
            if changed:
                await self._read(self._path)
            await asyncio.sleep(self._interval)
            changed = file.changed()

    async def _read(self, path: str) -> None:
        try:
            # in a thread: parsing the YAML of a thousand keys takes long
            specs = await asyncio.to_thread(load_keys, path, self._environment)
        except KeyFileError as e:
            self._log.event("keys_refused", why=f"{e}; the old keys stay in use")
            return
        if self._access.replace(specs):
            self._log.event("keys_changed", keys=[spec.name for spec in specs])
