"""The reader of Mooncake's traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.traces.mooncake import parse_mooncake
from sun_sglang.bench.load.traces.trace import TraceRecord

FILE = Path("trace.jsonl")
ROW = b'{"timestamp": 2000, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}'
SMALL = Path(__file__).parent / "data" / "mooncake_small.jsonl"


def test_mooncake_rows_give_seconds_and_blocks() -> None:
    content = (
        b"\xef\xbb\xbf"
        + ROW
        + b'\r\n\n{"timestamp": 3500.5, "input_length": 1, "output_length": 2, "task": "math", "x": 1}'
    )
    assert parse_mooncake(FILE, content).records == [
        TraceRecord(1, 0, 600, 52, None, (46, 47)),
        TraceRecord(3, 1.5005, 1, 2, "math", ()),
    ]


def test_mooncake_small_trace_is_read_whole() -> None:
    assert len(parse_mooncake(SMALL, SMALL.read_bytes()).records) == 20


def test_mooncake_blocks_of_another_size_are_counted_with_it() -> None:
    row = b'{"timestamp": 0, "input_length": 33, "output_length": 1, "hash_ids": [1, 2, 3]}'
    assert parse_mooncake(FILE, row, block_size=16).records[0].blocks == (1, 2, 3)
    with pytest.raises(FileError, match="--isl-block-size"):
        parse_mooncake(FILE, row)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "Invalid JSON"),
        (b"5", "Input should be an object"),
        (b"{}", "timestamp: is required"),
        (ROW.replace(b"2000", b"-1"), "timestamp: Input should be greater than or equal to 0 (got -1"),
        (ROW.replace(b"2000", b'"2000"'), "timestamp: Input should be a valid number"),
        (ROW.replace(b"600", b"0"), "input_length: Input should be greater than or equal to 1"),
        (ROW.replace(b"600", b"600.5"), "input_length: Input should be a valid integer"),
        (ROW.replace(b"52", b"true"), "output_length: Input should be a valid integer"),
        (ROW.replace(b"52", b"99999999999"), "output_length: Input should be less than or equal to 10000000"),
        (ROW.replace(b"46, ", b""), "`hash_ids` has 1 blocks, but `input_length` 600 makes 2 of 512 tokens"),
        (ROW.replace(b"46", b'"a"'), "hash_ids.0: Input should be a valid integer"),
        (ROW.replace(b"2000", b"1000"), "the time is 1.000000 s before the record before"),
        (ROW.replace(b"46", b"\xff"), "Invalid JSON"),
    ],
)
def test_mooncake_wrong_line_is_named(line: bytes, problem: str) -> None:
    with pytest.raises(FileError) as error:
        parse_mooncake(FILE, ROW + b"\n" + line)
    assert str(error.value).startswith("trace.jsonl:2: ")
    assert problem in str(error.value)


def test_mooncake_empty_file_is_an_error() -> None:
    with pytest.raises(FileError, match=r"trace\.jsonl: the trace has no record"):
        parse_mooncake(FILE, b"\n")


@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from(["timestamp", "input_length", "output_length", "hash_ids", "task"]),
        st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    ).map(lambda row: json.dumps(row).encode())
)
def test_mooncake_any_content_is_parsed_or_rejected_in_place(content: bytes) -> None:
    try:
        place = f"trace.jsonl: {len(parse_mooncake(FILE, content).records)}"
    except FileError as error:
        place = str(error)
    assert place.startswith("trace.jsonl:")
