"""Traces in general: several at once, and known sources."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.load.traces.published import source_of
from sun_sglang.bench.load.traces.trace import Trace, TraceRecord, merge


def _trace(*times: float) -> Trace:
    return Trace(Path("x"), "azure_trace", "0" * 64, [TraceRecord(i, at, 1, 1) for i, at in enumerate(times)])


def test_merge_numbers_the_records_of_all_traces_in_the_order_of_time() -> None:
    merged = list(merge([_trace(0, 2, 5), _trace(0, 1)]))
    assert [(m.number, m.trace, m.record.at) for m in merged] == [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 0, 2), (4, 0, 5)]


def test_source_of_a_published_trace_names_repository_and_licence() -> None:
    source = source_of("2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8")
    assert source is not None
    assert "Azure/AzurePublicDataset" in source
    assert "CC-BY 4.0" in source
    assert source_of("0" * 64) is None
