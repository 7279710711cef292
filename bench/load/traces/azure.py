"""The traces of Azure's LLM inference service: CSV with `TIMESTAMP,ContextTokens,GeneratedTokens`.

Published in Azure/AzurePublicDataset (CC-BY 4.0). A further column `task` or `model` names the task of a record.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.traces.trace import MOST_TOKENS, Clock, Trace, TraceRecord

FORMAT = "azure_trace"
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


class _Rows(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...
    def __next__(self) -> list[str]: ...


def parse_azure(file: Path, content: bytes) -> Trace:
    """Return the trace in the content of a file.

    Args:
        file: the file, for messages and the origin.
        content: its bytes.

    Raises:
        FileError: a line is wrong, or there is no record.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise FileError(file, content[: e.start].count(b"\n") + 1, "the text is not UTF-8") from e
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        records = _records(file, rows)
    except csv.Error as e:
        raise FileError(file, rows.line_num, f"not valid CSV: {e}") from e
    if not records:
        raise FileError(file, None, "the trace has no record")
    return Trace(file, FORMAT, hashlib.sha256(content).hexdigest(), records)


def _records(file: Path, rows: _Rows) -> list[TraceRecord]:
    header = next(rows, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        found = ", ".join(header) or "none"
        raise FileError(file, 1, f"the header has no column {missing[0]} (columns: {found})")
    time_at, input_at, output_at = (header.index(column) for column in COLUMNS)
    task_at = next((i for i, column in enumerate(header) if column.lower() in ("task", "model")), None)
    clock = Clock(file)
    records = []
    for row in rows:
        if not row:
            continue
        line = rows.line_num
        if len(row) != len(header):
            raise FileError(file, line, f"the line has {len(row)} fields, the header {len(header)}")
        records.append(
            TraceRecord(
                line,
                clock.seconds(line, _time(file, line, row[time_at])),
                _tokens(file, line, "ContextTokens", row[input_at]),
                _tokens(file, line, "GeneratedTokens", row[output_at]),
                (row[task_at].strip() or None) if task_at is not None else None,
            )
        )
    return records


def _time(file: Path, line: int, text: str) -> float:
    """Return seconds since 2020, whose float has whole microseconds; a time without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as e:
        raise FileError(file, line, f"TIMESTAMP `{text}` is no time such as `2023-11-16 18:17:03.9799600`") from e
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH).total_seconds()


def _tokens(file: Path, line: int, column: str, text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and 1 <= int(digits) <= MOST_TOKENS):
        raise FileError(file, line, f"{column} `{text}` is not a whole number from 1 to {MOST_TOKENS}")
    return int(digits)
