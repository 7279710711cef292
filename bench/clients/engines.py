"""The load engines that are compared: how to start each before a server, and where it writes what it measured."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.serving.result import read_result
from sun_sglang.errors import UserError


class EngineError(UserError):
    """A load engine failed; the message names it and shows the end of its output."""


class Load(NamedTuple):
    """The load of one measurement.

    Attributes:
        streams: requests in flight, and in all.
        tokens: tokens of each answer.
    """

    streams: int
    tokens: int


class Measured(NamedTuple):
    """What an engine measured, in milliseconds, and the resources that it took.

    Attributes:
        ttft_ms: time to first token, median.
        itl_ms: inter-token latency, mean over the requests.
        requests: answers that it counted.
        cpu_s: CPU seconds of its process and of all processes that it started.
        memory_mib: resident memory of its largest process, at most.
    """

    ttft_ms: float
    itl_ms: float
    requests: int
    cpu_s: float
    memory_mib: float


class Engine(Protocol):
    """A load engine."""

    @property
    def name(self) -> str:
        """Its name in the report."""
        ...

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        """Return its command line; it may write to an empty folder."""
        ...

    def read(self, folder: Path) -> tuple[float, float, int]:
        """Return the TTFT and the ITL in ms and the number of answers that it measured."""
        ...


@dataclass(frozen=True)
class SunBench:
    """`sun bench`."""

    name: str = "sun bench"

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        """Return the command line of a closed loop that sends each request once."""
        lengths = ["--isl", "8", "--osl", str(load.tokens)]
        size = ["--concurrency", str(load.streams), "--request-count", str(load.streams)]
        # an engine that is late is a finding here, not an error
        options = ["--warmup-duration", "0", "--max-client-lag", "10000", "--output", str(folder / "result.json")]
        return sun_command("bench", "--url", url, "--tasks", "timed", *size, *lengths, *options)

    def read(self, folder: Path) -> tuple[float, float, int]:
        """Return what its file has."""
        (run,) = read_result(folder / "result.json").runs
        first, between = run.total.time_to_first_token, run.total.inter_token_latency
        assert first is not None
        assert between is not None
        return first.p50, between.avg, between.count


@dataclass(frozen=True)
class AIPerf:
    """AIPerf (`aiperf==0.13.0`) in an environment of its own.

    Attributes:
        python: the Python of that environment.
        tokenizer: a folder with a tokenizer, from which it makes prompts.
    """

    python: str
    tokenizer: Path
    name: str = "AIPerf"

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        """Return the command line of the same load."""
        target = ["--model", "timed", "--url", url, "--endpoint-type", "completions", "--streaming"]
        lengths = ["--isl", "8", "--osl", str(load.tokens), "--extra-inputs", "ignore_eos:true"]
        size = ["--concurrency", str(load.streams), "--request-count", str(load.streams)]
        output = ["--tokenizer", str(self.tokenizer.resolve()), "--output-artifact-dir", str(folder), "--ui", "none"]
        return [str(Path(self.python).parent / "aiperf"), "profile", *target, *lengths, *size, *output]

    def read(self, folder: Path) -> tuple[float, float, int]:
        """Return what its file has."""
        found: dict[str, Any] = json.loads(next(folder.rglob("profile_export_aiperf.json")).read_text())
        return (
            float(found["time_to_first_token"]["p50"]),
            float(found["inter_token_latency"]["avg"]),
            int(found["request_count"]["avg"]),
        )


def measure(engine: Engine, url: str, load: Load, folder: Path) -> Measured:
    """Run an engine before a server, and return what it measured and took.

    Raises:
        EngineError: it failed, or left no result.
    """
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    with log.open("wb") as output:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        command = engine.command(url, load, folder)
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise EngineError(f"{engine.name} ended with {process.returncode}: {log.read_text()[-2000:]}")
    try:
        ttft, itl, requests = engine.read(folder)
    except (OSError, KeyError, StopIteration) as e:
        raise EngineError(f"{engine.name} left no result ({e!r}): {log.read_text()[-2000:]}") from e
    return Measured(ttft, itl, requests, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
