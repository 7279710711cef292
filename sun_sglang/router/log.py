"""Structured log lines: one JSON object a line."""

from __future__ import annotations

import time
from typing import TextIO

import orjson


class Log:
    """Writes events to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, name: str, **fields: object) -> None:
        """Write `{"time": seconds since 1970, "event": name, ...}`."""
        line = {"time": round(time.time(), 3), "event": name, **fields}
        self._stream.write(orjson.dumps(line, default=str).decode() + "\n")
        self._stream.flush()
