"""Tests that start processes: they take nothing from the shell that runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.launch.planning.plan import WorkerPlan
from tests.support.environment import clear_shell_settings, load_hypothesis_profile
from tests.support.workers import decode_worker

load_hypothesis_profile()
clear_shell_settings()


@pytest.fixture
def worker(tmp_path: Path) -> WorkerPlan:
    """A worker that nothing starts."""
    return decode_worker(tmp_path)
