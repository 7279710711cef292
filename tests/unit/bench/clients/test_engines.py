"""The comparison of load engines: what an engine measured is read from its file, and its resources are counted."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from sun_sglang.bench.clients.engines import AIPerf, EngineError, Load, SunBench, measure
from sun_sglang.bench.clients.timed_server import TimedServer


class Burner:
    """An engine that runs a Python program."""

    name = "burner"

    def __init__(self, code: str, *, result: bool = True) -> None:
        self.code = code
        self.result = result

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        return [sys.executable, "-c", self.code]

    def read(self, folder: Path) -> tuple[float, float, int]:
        if not self.result:
            raise FileNotFoundError("result.json")
        return 1.0, 2.0, 3


async def test_sun_bench_before_a_server_counts_its_answers(tmp_path: Path) -> None:
    async with TestServer(TimedServer(ttft=0.0, itl=0.0).application()) as server:
        url = str(server.make_url("")).rstrip("/")
        found = await asyncio.to_thread(measure, SunBench(), url, Load(streams=3, tokens=4), tmp_path / "x")
    assert found.requests == 3
    assert found.cpu_s > 0
    assert found.memory_mib > 1


def test_engine_cpu_includes_the_processes_that_it_started(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert measure(Burner(code), "", Load(1, 2), tmp_path / "x").cpu_s >= 0.2


def test_engine_that_fails_is_an_error_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"burner ended with 3: .*no server"):
        measure(Burner("import sys; print('no server'); sys.exit(3)"), "", Load(1, 2), tmp_path / "x")


def test_engine_without_a_result_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"burner left no result .*ended early"):
        measure(Burner("print('ended early')", result=False), "", Load(1, 2), tmp_path / "x")


def test_aiperf_result_is_read_from_its_export(tmp_path: Path) -> None:
    export = {name: {"p50": 99.5, "avg": 50.5} for name in ("time_to_first_token", "inter_token_latency")}
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "profile_export_aiperf.json"
    file.write_text(json.dumps({**export, "request_count": {"avg": 7.0}}))
    assert AIPerf(python=sys.executable, tokenizer=tmp_path).read(tmp_path) == (99.5, 50.5, 7)
