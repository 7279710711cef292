from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.deployment import make_run_dir
from sun_sglang.launch.discovery import command_for, run_dir_of
from sun_sglang.launch.state import read_state


def test_deployment_in_its_default_directory_is_stopped_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "sun.yaml"
    assert command_for("stop", file, run_dir_of(file)) == f"sun stop {file}"


def test_deployment_in_another_directory_is_stopped_by_that_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "my run"
    assert command_for("stop", tmp_path / "sun.yaml", run_dir) == f"sun stop --run-dir '{run_dir}'"


def test_run_directory_that_cannot_be_made_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(LaunchError, match=r"cannot be used: .*--run-dir"):
            make_run_dir(place)


def test_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.mkdir()
    with pytest.raises(UserError, match=r"state\.json: cannot be read"):
        read_state(tmp_path)
    # the engine tests read every state below the directory of all tests when they end
    file.rmdir()


def test_user_without_a_home_gets_the_variable_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="XDG_STATE_HOME"):
        run_dir_of(tmp_path / "sun.yaml")
    assert "--run-dir" in command_for("stop", tmp_path / "sun.yaml", tmp_path)
