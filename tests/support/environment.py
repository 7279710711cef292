"""Remove from the environment the variables of the shell that runs the tests, where they would change a result."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# what programs and libraries read: where they send traces and requests, whom they let in, how they colour and wrap
_PREFIXES = ("OTEL_", "SUN_", "CLICOLOR", "TTY_")
_NAMES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS"),
)


def clear_shell_settings() -> None:
    """Remove the variables from this process's environment."""
    for name in [name for name in os.environ if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)]:
        del os.environ[name]


def load_hypothesis_profile() -> None:
    """Set how hypothesis runs here.

    The tests share two cores, so that how long an example takes says nothing. The same examples come every time, so
    that a result follows from the code alone.
    """
    settings.register_profile(
        "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
    )
    settings.load_profile("tests")
