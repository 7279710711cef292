"""The process that quantizes, as a script that plays its part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.cli.main import main
from sun_sglang.errors import CheckpointError, QuantizeFailed
from sun_sglang.quantize.environment import Environment
from sun_sglang.quantize.job import Job, Progress
from sun_sglang.quantize.process import run_job
from sun_sglang.quantize.workplace import workplace_of
from tests.support.quantize import arguments

# `python -P -m sun_sglang.quantize.compress JOB`, or `python -P -c CODE PACKAGE...` for the versions
_SCRIPT = """#!{python}
import json, os, pathlib, signal, sys
if sys.argv[2] == "-c":
    print(json.dumps({{name: "0.13.0" for name in sys.argv[4:]}}))
    sys.exit()
def send(**event):
    print(json.dumps(event), flush=True)
job = json.loads(pathlib.Path(sys.argv[4]).read_text())
{body}
"""
_PROGRESS = 'send(kind="progress", stage="load", done=0, total=1)'
# it has written a part, and works on until it is stopped or its parent is gone
_HANGS = f"""
made = pathlib.Path(job["output"])
made.mkdir()
(made / "config.json").write_text((pathlib.Path(job["model"]) / "config.json").read_text())
whole = (pathlib.Path(job["model"]) / "model.safetensors").read_bytes()
(made / "model.safetensors").write_bytes(whole[: len(whole) // 2])
{_PROGRESS}
os.read(0, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def fake_python(tmp_path: Path, body: str) -> Path:
    file = tmp_path / "python"
    file.write_text(_SCRIPT.format(python=sys.executable, body=body))
    file.chmod(0o755)
    return file


def run(tmp_path: Path, body: str) -> list[Progress]:
    job = Job(model="m", output="o", algorithm="rtn", group_size=128)
    (tmp_path / "work").mkdir()
    reported: list[Progress] = []
    assert run_job(job, Environment(fake_python(tmp_path, body), {}), tmp_path / "work", reported.append) is None
    return reported


def test_run_job_reports_progress_and_returns_measurement(tmp_path: Path) -> None:
    found = run(tmp_path, f'{_PROGRESS}\nprint("noise", file=sys.stderr)\nsend(kind="finished", quality=None)')
    assert found == [Progress(stage="load", done=0, total=1)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('print("about 1\\nabout 2", file=sys.stderr); send(kind="failed", reason="E: no"); sys.exit(1)', "E: no"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed, as the kernel does when memory runs out"),
        ("sys.exit(3)", "its process ended with status 3"),
        ("print('hello', flush=True)", "an unknown event: b'hello"),
        ('send(kind="finished", quality=None); sys.exit(2)', "its process ended with status 2"),
        ("", "its process ended with status 0"),
    ],
)
def test_run_job_process_that_fails_gives_its_reason(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(QuantizeFailed, match=reason) as failed:
        run(tmp_path, body)
    assert ("about 1\n  about 2" in str(failed.value)) == ("about" in body)


def test_command_that_fails_leaves_nothing_and_exits_1(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = fake_python(tmp_path, f'{_PROGRESS}\nsend(kind="failed", reason="E: no")\nsys.exit(1)')
    with pytest.raises(SystemExit) as ended:
        main(arguments(source, tmp_path / "models" / "out", "--python", str(python)))
    assert ended.value.code == 1
    assert "error: the quantization failed, and nothing was written: E: no" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


def start(source: Path, output: Path, python: Path) -> subprocess.Popen[str]:
    """Start the command, and return once its process has written half of a checkpoint."""
    # without samples the command imports no torch
    options = ["--output", str(output), "--algorithm", "rtn", "--python", str(python)]
    command = [sys.executable, "-m", "sun_sglang.cli", "quantize", str(source), *options]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if "loads the model" in line:
            return started
    raise AssertionError("it ended before its work")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_that_is_stopped_leaves_nothing(source: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "models" / "out"
    with start(source, output, fake_python(tmp_path, _HANGS)) as started:
        started.send_signal(number)
        _, error = started.communicate()
    assert started.returncode == 1
    assert f"stopped by {number.name}; nothing was written" in error
    assert list(output.parent.iterdir()) == []


def test_killed_command_ends_its_process_and_next_one_replaces_its_rest(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "models" / "out"
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    # the process holds the pipe open; its end is the end of the pipe
    python = fake_python(tmp_path, f"held = os.open({str(alive)!r}, os.O_WRONLY)\n{_HANGS}")
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with start(source, output, python) as started:
        started.kill()
    assert os.read(reader, 1) == b""
    os.close(reader)
    place = workplace_of(output)
    assert [path.name for path in output.parent.iterdir()] == [place.name]
    for refused in (place, place / "checkpoint"):
        with pytest.raises(CheckpointError):
            require_complete(refused)
    with pytest.raises(SystemExit):
        main(arguments(source, output, "--python", str(fake_python(tmp_path, "sys.exit(1)"))))
    assert "its process ended with status 1" in capsys.readouterr().err
    assert list(output.parent.iterdir()) == []
