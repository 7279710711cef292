"""A value that one process writes and others read, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sun_sglang.files.shared_snapshot import SharedSnapshot, SnapshotWriter


def test_value_that_another_process_wrote_is_read() -> None:
    snapshot = SharedSnapshot("test")
    assert snapshot.read() == b""
    child = os.fork()
    if child == 0:
        SnapshotWriter(snapshot.path).write(b"from a child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert snapshot.read() == b"from a child"
    snapshot.close()


def test_shorter_value_replaces_a_longer_one() -> None:
    snapshot = SharedSnapshot("test")
    writer = SnapshotWriter(snapshot.path)
    for value in (b"a long value", b"short", b""):
        writer.write(value)
        assert snapshot.read() == value
    writer.close()
    snapshot.close()


def test_writer_that_stops_in_the_middle_leaves_the_value_before(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = SharedSnapshot("test")
    writer = SnapshotWriter(snapshot.path)
    pwrite = os.pwrite

    def write_half(fd: int, data: bytes, offset: int) -> int:
        pwrite(fd, data[: len(data) // 2], offset)
        raise InterruptedError

    for value in (b"first", b"second", b"third"):
        writer.write(value)
        monkeypatch.setattr(os, "pwrite", write_half)
        with pytest.raises(InterruptedError):
            writer.write(b"never whole")
        monkeypatch.setattr(os, "pwrite", pwrite)
        assert snapshot.read() == value
    writer.close()
    snapshot.close()


def test_reader_that_two_writes_overtake_reads_the_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = SharedSnapshot("test")
    writer = SnapshotWriter(snapshot.path)
    writer.write(b"old")
    later = [b"newer", b"newest"]
    pread = os.pread

    def read_late(fd: int, length: int, offset: int) -> bytes:
        found = pread(fd, length, offset)
        while later:
            writer.write(later.pop(0))
        return found

    monkeypatch.setattr(os, "pread", read_late)
    assert snapshot.read() == b"newest"
    writer.close()
    snapshot.close()


def test_file_without_a_whole_value_is_an_error() -> None:
    snapshot = SharedSnapshot("test")
    with Path(snapshot.path).open("wb") as file:
        file.write(bytes(100))
        file.seek(8)
        file.write(b"\x05")
    with pytest.raises(OSError, match="no whole value"):
        snapshot.read()
    snapshot.close()
