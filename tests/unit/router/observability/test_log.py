"""Log lines: nothing that they hold and nothing that happens to their stream stops the router."""

from __future__ import annotations

import fcntl
import logging
import os
from collections import Counter
from io import StringIO
from typing import Any

import orjson
import pytest

from sun_sglang.router.observability.log import Log, LogHandler, encode
from sun_sglang.router.observability.log_writer import LogWriter
from tests.support.waiting import wait_for
from tests.unit.router.conftest import PATIENCE_S


class Full:
    """A stream on a full disk."""

    def write(self, _: str) -> None:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise AssertionError("there is nothing to flush")


class Odd:
    """An object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("it has no text")


# --- what a line holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "\udcff",
        {"\udcff": "\ud800"},
        1 << 64,
        {1: Odd()},
        [Odd()],
        {"a": {"b": ["\udc80"]}},
        b"\xff",
        Odd(),
        float("nan"),
    ],
)
def test_log_event_with_a_value_that_json_cannot_hold_is_one_line(value: object) -> None:
    stream = StringIO()
    Log(stream).event("odd", value=value)
    (line,) = stream.getvalue().splitlines()
    assert orjson.loads(line)["event"] == "odd"


def test_log_event_of_a_list_that_holds_itself_is_one_line() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert encode({"event": "odd", "value": loop}).count("\n") == 1


def test_log_handler_with_arguments_that_do_not_fit_writes_the_format() -> None:
    stream = StringIO()
    LogHandler(Log(stream)).emit(logging.LogRecord("lib", logging.ERROR, "", 0, "%d of %d", ("one",), None))
    assert orjson.loads(stream.getvalue())["why"] == "%d of %d"


# --- where it goes --------------------------------------------------------------------------------------------------


def test_log_event_on_a_stream_that_fails_is_counted() -> None:
    log = Log(Full())
    log.event("one")
    log.event("two")
    closed = StringIO()
    closed.close()
    Log(closed, log.lost).event("three")
    assert log.lost == {"failed": 3}


def test_log_writer_reports_lost_lines_once_writing_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    write = os.write
    # a disk that fills up in the middle of a line, stays full, and has room again
    room = [lambda d, b: write(d, b[:3]), fail, fail, fail, fail, fail]
    monkeypatch.setattr("os.write", lambda d, b: room.pop(0)(d, b) if room else write(d, b))
    lost: Counter[str] = Counter()
    log = LogWriter(writer, lost)
    for line in ("torn", "two", "three"):
        log.write(f"{line}\n")
        wait_for(lambda: not log._waiting and not log._writing)
    assert not room
    log.write("four\n")
    log.close(PATIENCE_S)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        torn, report, four = file.read().splitlines()
    assert (torn, four) == (b"tor", b"four")
    assert {k: v for k, v in orjson.loads(report).items() if k != "time"} == {"event": "log_lines_lost", "lines": 3}
    assert lost == {"failed": 3}


def test_log_writer_with_a_reader_that_stalls_drops_lines_and_keeps_the_order() -> None:
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    lost: Counter[str] = Counter()
    log = LogWriter(writer, lost, queue_bytes=1000)
    os.write(writer, b"x" * size)  # the pipe is full
    log.write("first\n")
    wait_for(lambda: log._writing)
    for i in range(1000):
        log.write(f"{i}\n")
    assert lost["blocked"] > 0
    log.close(0.0)  # returns although nothing can be written
    with os.fdopen(reader, "rb") as file:
        first = file.readline()
        kept = []
        while len(kept) < 1000 - lost["blocked"]:
            line = file.readline()
            if not line.startswith(b"{"):
                kept.append(int(line))
            else:
                assert orjson.loads(line)["lines"] == lost["blocked"]
        os.close(writer)
    assert first == b"x" * size + b"first\n"
    assert kept == list(range(len(kept)))


def fail(_descriptor: int, _data: bytes) -> int:
    raise OSError(28, "No space left on device")
