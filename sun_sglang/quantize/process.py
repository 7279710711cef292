"""Run the process that quantizes, and end it with this one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from sun_sglang.errors import QuantizeFailed
from sun_sglang.quantize.environment import Environment, environment_variables, package_directory
from sun_sglang.quantize.job import EVENTS, Failed, Finished, Job, Progress, Quality

_LOG_LINES = 12


def run_job(job: Job, environment: Environment, place: Path, report: Callable[[Progress], None]) -> Quality | None:
    """Run a job in another environment and return what it measured.

    An exception, such as that of a signal, stops the process; so does a SIGKILL of this one: its standard input ends.

    Args:
        job: the job.
        environment: the environment.
        place: a directory for the job, the log and the path of this package.
        report: called with each progress.

    Raises:
        QuantizeFailed: the process failed.
    """
    code, file, log = place / "code", place / "job.json", place / "log.txt"
    code.mkdir()
    (code / "sun_sglang").symlink_to(package_directory(), target_is_directory=True)
    file.write_text(job.model_dump_json(), encoding="utf-8")
    # `-P`: the user's directory holds no modules of it. A session of its own: Ctrl-C reaches this process alone.
    command = [str(environment.python), "-P", "-m", "sun_sglang.quantize.compress", str(file)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment_variables(code),
            start_new_session=True,
        ) as process,
    ):
        try:
            found = _follow(process, report)
            status = process.wait()
        finally:
            _kill(process)
    if isinstance(found, Finished) and status == 0:
        return found.quality
    raise QuantizeFailed(_reason(found, status, log))


def _follow(process: subprocess.Popen[bytes], report: Callable[[Progress], None]) -> Finished | Failed | None:
    """Report progress until the output ends, and return the last event; None where there was none."""
    assert process.stdout is not None
    last: Finished | Failed | None = None
    for line in process.stdout:
        try:
            event = EVENTS.validate_json(line)
        except ValidationError:
            return Failed(reason=f"an unknown event: {line[:200]!r}")
        if isinstance(event, Progress):
            report(event)
        else:
            last = event
    return last


def _reason(found: Finished | Failed | None, status: int, log: Path) -> str:
    if isinstance(found, Failed):
        reason = found.reason
    elif status == -signal.SIGKILL:
        reason = "its process was killed, as the kernel does when memory runs out; give fewer --samples or --max-tokens"
    else:
        reason = f"its process ended with status {status}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    tail = "".join(f"\n  {line.rpartition(chr(13))[2]}" for line in lines)
    return f"the quantization failed, and nothing was written: {reason}" + (
        f"\nlast lines of its log:{tail}" if tail else ""
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
