from __future__ import annotations

import os
from pathlib import Path

import pytest

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.deployment import make_run_dir
from sun_sglang.launch.discovery import command_for, run_dir_of, running_deployment
from sun_sglang.launch.state import DeploymentState, Phase, read_state, write_state


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


@pytest.mark.parametrize(("phase", "gone"), [(Phase.READY, True), (Phase.STOPPED, False), (Phase.FAILED, False)])
def test_launcher_that_was_killed_is_told_from_one_that_ended(tmp_path: Path, phase: Phase, gone: bool) -> None:
    state = DeploymentState(
        topology=tmp_path / "sun.yaml",
        # this process began at another time
        pid=os.getpid(),
        created=0,
        phase=phase,
        url="",
        transfer="",
        seconds_to_ready=None,
        detail="",
        processes=(),
    )
    write_state(tmp_path, state)
    with pytest.raises(UserError) as error:
        running_deployment(None, tmp_path)
    killed = f": its launcher (pid {os.getpid()}) is gone, and its workers with it; `sun launch` starts it again"
    assert str(error.value) == f"{tmp_path} is not running{killed if gone else ''}"
