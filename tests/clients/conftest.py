"""Start the demo for clients of other projects, and write what each of them did into a report.

These tests run in an environment of their own, which holds the clients and not this project: `make test-clients`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUN = [os.environ.get("SUN_PYTHON", str(ROOT / ".venv/bin/python")), "-m", "sun_sglang.cli"]
REPORT = ROOT / "build/clients/report.md"
# a file of this folder: its package, and the settings that it needs
V1, KEY = "`base_url=URL/v1`", "`api_key`: any"
CLIENTS = {
    "openai": ("openai", f"{V1}, {KEY}"),
    "openai_agents": ("openai-agents", f"`AsyncOpenAI({V1.strip('`')})` as the model's client; tracing off"),
    "langchain": ("langchain-openai", f"{V1}, {KEY}"),
    "litellm": ("litellm", "`model=openai/TASK`, `api_base=URL/v1`, " + KEY),
    "llama_index": ("llama-index-llms-openai-like", "`api_base=URL/v1`, `is_chat_model`, `is_function_calling_model`"),
    "instructor": ("instructor", "`Mode.JSON_SCHEMA`; in `Mode.TOOLS`, tools with `strict` (`extra_body`)"),
    "pydantic_ai": ("pydantic-ai-slim", f"`OpenAIProvider({V1.strip('`')})`"),
    "anthropic": ("anthropic", "`base_url=URL`; `temperature` in `extra_body`"),
    "guidellm": ("guidellm", "`--backend=kind=openai_http,target=URL,model=TASK`, `--tokenizer`"),
    "node_openai": ("openai", "`baseURL: URL/v1`, `apiKey`: any"),
    "node_vercel": ("ai", "`createOpenAI` or `createOpenAICompatible` with `baseURL: URL/v1`"),
}
_RESULTS: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the router's URL of a demo that runs until the last test has ended."""
    directory = tmp_path_factory.mktemp("demo")
    topology, run_dir = directory / "sun.yaml", directory / "run"
    demo = (ROOT / "configs/demo/sun.yaml").read_text()
    topology.write_text(demo.replace("./models", str(ROOT / "configs/demo/models")) + "router: {port: 0}\n")
    try:
        started = _sun("launch", str(topology), "--detach", "--run-dir", str(run_dir))
        assert started.returncode == 0, started.stdout + started.stderr
        yield json.loads((run_dir / "state.json").read_text())["url"]
    finally:
        _sun("stop", "--run-dir", str(run_dir), "--now")


@pytest.fixture(scope="session")
def v1(url: str) -> str:
    """Return the base URL of OpenAI's API."""
    return f"{url}/v1"


def _sun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SUN, *arguments], capture_output=True, text=True, timeout=280, check=False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the result of a check: `test_CLIENT_CHECK` in `test_CLIENT.py`."""
    if report.when != "call" and report.passed:
        return
    path, _, name = report.nodeid.partition("::")
    client = Path(path).stem.removeprefix("test_")
    parameter = re.search(r"\[(.+)\]", name)
    check = (parameter[1] if parameter else name.removeprefix(f"test_{client}_")).replace("_", " ")
    _RESULTS.setdefault(client, {})[check] = report.outcome


def pytest_sessionfinish() -> None:
    """Write the table of `docs/clients.md`."""
    rows = ["| client | version | what was run | result | settings |", "|---|---|---|---|---|"]
    for client, results in sorted(_RESULTS.items()):
        package, settings = CLIENTS[client]
        failed = [check for check, outcome in results.items() if outcome != "passed"]
        result = f"not passed: {', '.join(failed)}" if failed else "passed"
        name = f"{package} (node)" if client.startswith("node_") else package
        rows.append(f"| {name} | {_version(client, package)} | {', '.join(results)} | {result} | {settings} |")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(rows) + "\n")


def _version(client: str, package: str) -> str:
    if not client.startswith("node_"):
        return version(package)
    installed = ROOT / "tests/clients/node/node_modules" / package / "package.json"
    return str(json.loads(installed.read_text())["version"])
