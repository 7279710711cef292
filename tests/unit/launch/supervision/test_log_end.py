from __future__ import annotations

import asyncio
from pathlib import Path

from sun_sglang.launch.places.local.child import Child, LocalRunning
from sun_sglang.launch.places.place import Address
from sun_sglang.launch.supervision.log_end import last_lines, read_end


def start_with(log: Path, log_begin: int) -> LocalRunning:
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(0)
    return LocalRunning(Address(host="127.0.0.1", port=1), Child(1, ended), log, log_begin)


def test_last_lines_are_cut_to_500_characters() -> None:
    assert last_lines(b"", 2) == ""
    assert last_lines(b"one\ntwo\n\xffthree\n", 2) == "two\n\ufffdthree"
    assert last_lines(b"x" * 2000 + b"\n", 2) == "x" * 500


async def test_read_end_without_a_log_is_empty(tmp_path: Path) -> None:
    assert await read_end(start_with(tmp_path / "log", 0)) == b""


async def test_read_end_leaves_out_the_output_of_earlier_starts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n\xffthree\n")
    assert await read_end(start_with(log, 8)) == b"\xffthree\n"


async def test_read_end_of_a_long_log_is_its_last_64_kib(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 100_000 + b"b" * (1 << 16))
    assert await read_end(start_with(log, 0)) == b"b" * (1 << 16)
