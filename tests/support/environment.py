"""Make results independent of the shell that runs the tests, and of hypothesis's random choices."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# variables of programs and libraries: addresses of traces and proxies, keys, colours, and the width of lines
_PREFIXES = ("OTEL_", "SUN_", "CLICOLOR", "TTY_")
_NAMES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS"),
)


def clear_shell_settings() -> None:
    """Remove these variables from this process's environment."""
    for name in [name for name in os.environ if name.upper() in _NAMES or name.upper().startswith(_PREFIXES)]:
        del os.environ[name]


def load_hypothesis_profile() -> None:
    """Set the profile of hypothesis.

    Examples have no deadline: the tests share two cores. The same examples run each time: a result depends on the code
    alone.
    """
    settings.register_profile(
        "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
    )
    settings.load_profile("tests")
