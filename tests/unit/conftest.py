"""What no test here may depend on: the time that an example takes, and what the shell that runs them has set.

And a fixture that tests of several files use.
"""

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
