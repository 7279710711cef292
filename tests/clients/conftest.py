"""Start the demo for clients of other projects, and write what each of them did into a report.

These tests run in an environment of their own, which holds the clients and not this project: `make test-clients`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.page import REPORT
from tests.clients.running import running_demo
from tests.clients.table import tables

# a user's own accounts, traces and proxies have no part in these tests; clients read them when they are imported
_USERS_OWN = (
    "OPENAI_",
    "ANTHROPIC_",
    "AZURE_",
    "LANGCHAIN_",
    "LANGSMITH_",
    "LITELLM_",
    "LOGFIRE_",
    "OTEL_",
    "GUIDELLM_",
    "AI_GATEWAY_",
)
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
for _name in [name for name in os.environ if name.startswith(_USERS_OWN) or name.upper() in _PROXIES]:
    del os.environ[_name]
# none of them asks another server
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "OPENAI_AGENTS_DISABLE_TRACING": "1"}

# as for Ctrl-C: the demo and the clients end with the tests
for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, signal.default_int_handler)

_RESULTS: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the router's URL of a demo that runs until the last test has ended."""
    with running_demo(tmp_path_factory.mktemp("demo")) as url:
        yield url


@pytest.fixture(scope="session")
def v1(url: str) -> str:
    """Return the base URL of OpenAI's API."""
    return f"{url}/v1"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome of a check: `test_CLIENT_CHECK` or `test_CLIENT[CHECK]` in `test_CLIENT.py`."""
    path, _, name = report.nodeid.partition("::")
    client = Path(path).stem.removeprefix("test_")
    parameter = re.search(r"\[(.+)\]", name)
    check = parameter[1] if parameter else name.removeprefix(f"test_{client}_")
    outcomes = _RESULTS.setdefault(client, {})
    if report.when == "call" or not report.passed:
        outcomes[check] = report.outcome


def pytest_sessionfinish() -> None:
    """Write the tables of `docs/clients.md`."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(tables(_RESULTS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of checks by client."""
    terminalreporter.section("clients")
    for client, outcomes in _RESULTS.items():
        failed = [check for check, outcome in outcomes.items() if outcome != "passed"]
        result = f"not passed: {', '.join(failed)}" if failed else "passed"
        terminalreporter.write_line(f"{client:24} {len(outcomes):3} checks  {result}")
