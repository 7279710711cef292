"""The traces of Mooncake: JSONL with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`.

Published in kvcache-ai/Mooncake (`FAST25-release/traces`). `hash_ids` names each block of 512 tokens of a prompt, the
last of which may be shorter; two prompts with the same ids at their start have the same tokens there. `task` or `model`
names the task of a record. Other keys are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.traces.trace import MOST_TOKENS, Clock, Trace, TraceRecord
from sun_sglang.strict import first_invalid

FORMAT = "mooncake_trace"
BLOCK_SIZE = 512

Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class MooncakeRow(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(frozen=True, strict=True)

    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    input_length: Tokens
    output_length: Tokens
    hash_ids: tuple[int, ...] = ()
    task: str | None = None
    model: str | None = None


def parse_mooncake(file: Path, content: bytes, block_size: int = BLOCK_SIZE) -> Trace:
    """Return the trace in the content of a file.

    Args:
        file: the file, for messages and the origin.
        content: its bytes.
        block_size: tokens in a block.

    Raises:
        FileError: a line is wrong, or there is no record.
    """
    records = list(_records(file, content, block_size))
    if not records:
        raise FileError(file, None, "the trace has no record")
    return Trace(file, FORMAT, hashlib.sha256(content).hexdigest(), records)


def _records(file: Path, content: bytes, block_size: int) -> Iterator[TraceRecord]:
    clock = Clock(file)
    for line, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not text.strip():
            continue
        row = _row(file, line, text)
        blocks = -(-row.input_length // block_size)
        if row.hash_ids and len(row.hash_ids) != blocks:
            raise FileError(
                file,
                line,
                f"`hash_ids` has {len(row.hash_ids)} blocks, but `input_length` {row.input_length} makes {blocks}"
                f" of {block_size} tokens; --isl-block-size sets the size of a block",
            )
        at = clock.seconds(line, row.timestamp / 1000)
        yield TraceRecord(line, at, row.input_length, row.output_length, row.task or row.model, row.hash_ids)


def _row(file: Path, line: int, text: bytes) -> MooncakeRow:
    try:
        # Python's parser of JSON has no tuples: pydantic's, which is strict in JSON's types, reads them from lists
        return MooncakeRow.model_validate_json(text)
    except ValidationError as e:
        invalid = first_invalid(e, MooncakeRow, show_value=True)
        raise FileError(file, line, invalid.describe()) from e


def is_mooncake(text: bytes) -> bool:
    """Return whether the first line of a file is that of a trace."""
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(row, dict) and "timestamp" in row and "input_length" in row
