"""What no test here may depend on: the time that an example takes, and what the shell that runs them has set.

And a fixture that tests of several files use.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sun_sglang.launch.planning.plan import WorkerPlan
from tests.support.environment import clear_shell_settings
from tests.support.workers import decode_worker

# How long an example takes says nothing where several test runs share two cores. The same examples come every time, so
# that what a run shows follows from the code alone.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.load_profile("tests")

clear_shell_settings()


@pytest.fixture
def worker(tmp_path: Path) -> WorkerPlan:
    """A worker that nothing starts."""
    return decode_worker(tmp_path)
