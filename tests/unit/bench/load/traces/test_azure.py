"""The reader of Azure's traces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.traces.azure import parse_azure
from sun_sglang.bench.load.traces.trace import TraceRecord

FILE = Path("azure.csv")
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
SMALL = Path(__file__).parent / "data" / "azure_small.csv"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_azure_rows_give_seconds_after_the_first(newline: bytes, mark: bytes) -> None:
    content = mark + HEADER + b"2023-11-16 23:59:59.5000000,4808,10\n\n2023-11-17 00:00:01.0519609,3180,8"
    trace = parse_azure(FILE, content.replace(b"\n", newline))
    assert trace.records == [TraceRecord(2, 0, 4808, 10), TraceRecord(4, 1.55196, 3180, 8)]


def test_azure_columns_in_another_order_and_a_task_are_read() -> None:
    content = b"Model,GeneratedTokens,TIMESTAMP,ContextTokens\n"
    content += b"math,1,2024-05-10 00:00:00.009930+00:00,2\n,3,2024-05-10T00:00:01Z,4\n"
    records = parse_azure(FILE, content).records
    assert [(r.input_tokens, r.output_tokens, r.task) for r in records] == [(2, 1, "math"), (4, 3, None)]
    assert records[1].at == 0.99007


def test_azure_small_trace_is_read_whole() -> None:
    trace = parse_azure(SMALL, SMALL.read_bytes())
    assert len(trace.records) == 20
    assert trace.sha256 == hashlib.sha256(SMALL.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "azure.csv:1: the header has no column TIMESTAMP (columns: none)"),
        (b"TIMESTAMP,ContextTokens\n", "azure.csv:1: the header has no column GeneratedTokens"),
        (HEADER, "azure.csv: the trace has no record"),
        (
            HEADER + b"2023-11-16 18:17:03,5,6\n2023-11-16 18:17:04,5\n",
            "azure.csv:3: the line has 2 fields, the header 3",
        ),
        (HEADER + b"yesterday,5,6\n", "azure.csv:2: TIMESTAMP `yesterday` is no time"),
        (HEADER + b"2023-02-30 00:00:00,5,6\n", "azure.csv:2: TIMESTAMP `2023-02-30 00:00:00` is no time"),
        (HEADER + b"2023-11-16 18:17:03,0,6\n", "azure.csv:2: ContextTokens `0` is not a whole number from 1"),
        (HEADER + b"2023-11-16 18:17:03,5,\n", "azure.csv:2: GeneratedTokens `` is not a whole number"),
        (HEADER + b"2023-11-16 18:17:03,1_0,6\n", "azure.csv:2: ContextTokens `1_0` is not a whole number"),
        (HEADER + b"2023-11-16 18:17:03,99999999999,6\n", "azure.csv:2: ContextTokens `99999999999` is not"),
        (
            HEADER + b"2023-11-16 18:17:03,5,6\n2023-11-16 18:17:02.5,5,6\n",
            "azure.csv:3: the time is 0.500000 s before the record before; sort the file by time",
        ),
        (HEADER + b"2023-11-16 18:17:03,5,6\n\xff,5,6\n", "azure.csv:3: the text is not UTF-8"),
        (HEADER + b'"2023-11-16 18:17:03,5,6\n', "azure.csv:2: not valid CSV"),
    ],
)
def test_azure_wrong_line_is_named(content: bytes, message: str) -> None:
    with pytest.raises(FileError) as error:
        parse_azure(FILE, content)
    assert str(error.value).startswith(message)


@given(st.binary() | st.text('0123456789,\n"-: TZ').map(lambda text: HEADER + text.encode()))
def test_azure_any_content_is_parsed_or_rejected_in_place(content: bytes) -> None:
    try:
        place = f"azure.csv: {len(parse_azure(FILE, content).records)}"
    except FileError as error:
        place = str(error)
    assert place.startswith("azure.csv:")
