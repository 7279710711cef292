from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.cli.main import main

Sun = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sun(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sun:
    """Run `sun bench` where no deployment runs; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("bench", *arguments))
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run
