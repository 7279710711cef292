"""A trace: recorded requests of a service, with its source, so that a result can name what was replayed."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.traces.published import source_of

MOST_TOKENS = 10_000_000
"""The most tokens that a record may have; ten times the longest context of today's models."""


class TraceRecord(NamedTuple):
    """A recorded request.

    Attributes:
        line: line of the file, from 1.
        at: seconds after the first record of the trace.
        input_tokens: length of the prompt, at least 1.
        output_tokens: length of the answer, at least 1.
        task: the task that the trace names; None where it names none.
        blocks: identifiers of the prompt's blocks of tokens, with equal numbers for equal blocks; empty if unknown.
    """

    line: int
    at: float
    input_tokens: int
    output_tokens: int
    task: str | None = None
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """The records of a file, in the order of time.

    Attributes:
        file: the file.
        format: `azure_trace` or `mooncake_trace`.
        sha256: SHA-256 of the file's bytes.
        records: at least one.
    """

    file: Path
    format: str
    sha256: str
    records: Sequence[TraceRecord]

    @property
    def origin(self) -> dict[str, Any]:
        """What a result states of the trace."""
        return {
            "file": self.file.name,
            "format": self.format,
            "sha256": self.sha256,
            "source": source_of(self.sha256),
            "records": len(self.records),
            "seconds": self.records[-1].at,
        }


class MergedRecord(NamedTuple):
    """A record of one of several traces. `number` counts the records of all traces in the order of time, from 0."""

    number: int
    trace: int
    record: TraceRecord


def merge(traces: Sequence[Trace]) -> Iterator[MergedRecord]:
    """Yield the records of several traces in the order of time; each trace begins at second 0."""
    numbered = (_with_trace(i, trace.records) for i, trace in enumerate(traces))
    merged = heapq.merge(*numbered, key=lambda pair: pair[1].at)
    return (MergedRecord(number, i, record) for number, (i, record) in enumerate(merged))


def _with_trace(number: int, records: Iterable[TraceRecord]) -> Iterator[tuple[int, TraceRecord]]:
    return ((number, record) for record in records)


class Clock:
    """Turns the times of a file into seconds after its first record, and rejects one that goes back.

    Args:
        file: the file, for the error.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._first: float | None = None
        self._last = 0.0

    def seconds(self, line: int, time: float) -> float:
        """Return the seconds after the first record.

        Args:
            line: the line of the record.
            time: its time in seconds, after any moment.

        Raises:
            FileError: the time is before that of the record before.
        """
        if self._first is None:
            self._first = time
        at = round(time - self._first, 6)
        if at < self._last:
            raise FileError(
                self._file, line, f"the time is {self._last - at:.6f} s before the record before; sort the file by time"
            )
        self._last = at
        return at
