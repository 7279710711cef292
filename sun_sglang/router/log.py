"""Structured log lines: one JSON object a line."""

from __future__ import annotations

import logging
import time
from typing import TextIO

import orjson

from sun_sglang.router.names import current_request


class Log:
    """Writes events to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, name: str, **fields: object) -> None:
        """Write `{"time": seconds since 1970, "event": name, ...}`, with `request` where one is being handled."""
        line = {"time": round(time.time(), 3), "event": name, **fields}
        if request := current_request.get():
            line["request"] = request
        self._stream.write(orjson.dumps(line, default=str).decode() + "\n")
        self._stream.flush()


class LogHandler(logging.Handler):
    """Writes what libraries log as events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        self._log.event("library", level=record.levelname, logger=record.name, why=record.getMessage(), trace=trace)
