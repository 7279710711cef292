"""What no test here may depend on: the time that an example takes, and what the shell that runs them has set.

And a fixture that tests of several files use.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sun_sglang.launch.planning.plan import WorkerPlan

# How long an example takes says nothing where several test runs share two cores. The same examples come every time, so
# that what a run shows follows from the code alone.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.load_profile("tests")

# what programs and libraries read: where they send traces and requests, whom they let in, how they colour and wrap
_PREFIXES = ("OTEL_", "SUN_", "CLICOLOR", "TTY_")
_NAMES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS"),
)
for _name in [name for name in os.environ if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)]:
    del os.environ[_name]


@pytest.fixture
def worker(tmp_path: Path) -> WorkerPlan:
    """A worker that nothing starts."""
    return WorkerPlan(
        name="base-0",
        pool="base",
        role="decode",
        host="127.0.0.1",
        port=1,
        bootstrap_port=None,
        gpus=(),
        threads=1,
        env={},
        argv=(),
        log=tmp_path / "log",
    )
