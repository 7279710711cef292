"""Structured log lines: one JSON object a line."""

from __future__ import annotations

import logging
import time
from typing import TextIO

import orjson
from aiohttp.http_exceptions import HttpProcessingError

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
        why, trace = record.getMessage(), None
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            # its text shows what a client sent, which may be a key
            why = f"{why}: it is not valid HTTP ({type(record.exc_info[1]).__name__})"
        elif record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
        self._log.event("library", level=record.levelname, logger=record.name, why=why, trace=trace)
