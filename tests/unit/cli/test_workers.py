"""The options of `sun workers restart`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sun_sglang.cli.workers import _restart
from sun_sglang.errors import LaunchError, UserError


def test_restart_without_a_name_or_with_an_endless_timeout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"which workers\? `sun workers restart POOL`"):
        _restart(tmp_path, None, None, 1.0, allow_gap=False, as_json=False)
    for timeout in (math.inf, math.nan):
        with pytest.raises(UserError, match="--timeout: a number of seconds, not"):
            _restart(tmp_path, "d", None, timeout, allow_gap=False, as_json=False)


def test_restart_without_a_launcher_says_that_it_is_gone(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"there is no .*control\.sock: the launcher is gone"):
        _restart(tmp_path, "d", None, 1.0, allow_gap=False, as_json=False)
