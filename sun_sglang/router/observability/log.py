"""Structured logging: one JSON object on each line."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Protocol

import orjson
from aiohttp.http_exceptions import HttpProcessingError

from sun_sglang.router.observability.request_id import current_request_id
from sun_sglang.router.text import escape_surrogates

_MOST_DEPTH = 8


class TextStream(Protocol):
    """A text stream."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Write the buffered text."""


class Log:
    """Writes events to a stream. A failing stream loses lines and never raises to the caller.

    Args:
        stream: receives the lines.
        lost: counts lost lines by reason. The stream shares it if the stream can lose lines too.
    """

    def __init__(self, stream: TextStream, lost: Counter[str] | None = None) -> None:
        self._stream = stream
        self.lost: Counter[str] = Counter() if lost is None else lost

    def event(self, name: str, **fields: object) -> None:
        """Write `{"time": seconds since 1970, "event": name, ...}`.

        While a request is handled, the line has its id as `request`.

        Args:
            name: name of the event.
            fields: the other fields of the line, of any type.
        """
        line = {"time": round(time.time(), 3), "event": name, **fields}
        if request := current_request_id.get():
            line["request"] = request
        try:
            self._stream.write(encode(line))
            self._stream.flush()
        except (OSError, ValueError):
            # the disk is full, the reader has exited, or the stream is closed
            self.lost["failed"] += 1


class LogHandler(logging.Handler):
    """Writes log records of libraries as events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        why, trace = _message(record), None
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            # the exception's text quotes what a client sent, which may be a key
            why = f"{why}: it is not valid HTTP ({type(record.exc_info[1]).__name__})"
        elif record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
        self._log.event("library", level=record.levelname, logger=record.name, why=why, trace=trace)


def encode(line: dict[str, object]) -> str:
    """Return an event as one line of JSON; values of any type are converted."""
    try:
        return orjson.dumps(line, default=str).decode() + "\n"
    except Exception:
        return orjson.dumps(_plain(line, 0)).decode() + "\n"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


def _plain(value: object, depth: int) -> object:
    """Return a value converted to types that every JSON encoder accepts."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return escape_surrogates(value)
    if depth < _MOST_DEPTH and isinstance(value, dict):
        return {escape_surrogates(str(k)): _plain(v, depth + 1) for k, v in value.items()}
    if depth < _MOST_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, depth + 1) for v in value]
    try:
        return escape_surrogates(str(value))
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
