"""Set-up of all unit tests: hypothesis, the environment, and a fixture of several folders."""

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
    """Return the plan of a worker that is not started."""
    return decode_worker(tmp_path)
