"""The options of `sun workers`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sun_sglang.cli.workers import Action, _restart, command
from sun_sglang.errors import LaunchError, UserError


@pytest.mark.parametrize("action", [Action.DRAIN, Action.REMOVE, Action.RESTART])
def test_endless_timeout_is_refused(tmp_path: Path, action: Action) -> None:
    for timeout in (math.inf, math.nan):
        with pytest.raises(UserError, match="--timeout: a number of seconds, not"):
            command(action, "d", timeout=timeout, run_dir=tmp_path)


def test_move_of_another_action_than_drain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--move is for `sun workers drain`, not for remove"):
        command(Action.REMOVE, "d", move=True, run_dir=tmp_path)


def test_restart_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"which workers\? `sun workers restart POOL`"):
        _restart(tmp_path, None, None, 1.0, allow_gap=False, as_json=False)


def test_restart_without_a_launcher_says_that_it_is_gone(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"there is no .*control\.sock: the launcher is gone"):
        _restart(tmp_path, "d", None, 1.0, allow_gap=False, as_json=False)
