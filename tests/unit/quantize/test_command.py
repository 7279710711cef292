from __future__ import annotations

import json
from pathlib import Path

import pytest

from sun_sglang.cli.main import main
from tests.support.quantize import arguments
from tests.unit.quantize.test_process import fake_python


def run(given: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(given)
    found = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, found.out, " ".join(found.err.split())


def test_dry_run_gives_sizes_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(source, tmp_path / "m" / "out", "--python", str(fake_python(tmp_path, "")), "--dry-run")
    code, out, _ = run([*given, "--json"], capsys)
    found = json.loads(out)
    assert code == 0
    assert (found["matrices"], found["samples"], found["held_out"], found["notes"]) == (14, 16, 4, [])
    assert found["tensor_bytes_after"] < found["tensor_bytes"] < found["memory_bytes"]
    assert list((tmp_path / "m").iterdir()) == []
    code, out, _ = run(given, capsys)
    assert "awq, 4 bit, symmetric, groups of 128, 14 matrices" in out


def test_algorithm_without_samples_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(["quantize", str(source), "--output", str(tmp_path / "out")], capsys)
    assert (code, "error: --calibration: awq needs samples" in error) == (1, True)


def test_wrong_usage_exits_with_2(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(source, tmp_path / "out")
    assert run([*given, "--algorithm", "int3"], capsys)[0] == 2
    code, _, error = run(given[:-6], capsys)
    assert (code, "give both --prompt and --response" in error) == (2, True)
