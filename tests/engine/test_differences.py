"""The router beside one plain SGLang server with the same weights: equal replies, or a listed reason."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sun_sglang.bench.processes import stop_process
from sun_sglang.cpu import has_gpu
from sun_sglang.patches.versions import installed_version
from sun_sglang.processes import tied_to_this_process
from sun_sglang.sglang_versions import NEWEST_VERSION
from tests.engine.conftest import TOPOLOGY, Deployment
from tests.engine.differences import chat_cases, completion_cases, generate_cases, other_cases
from tests.engine.differences.case import MODEL
from tests.engine.differences.reasons import REASONS, unexplained, unused
from tests.engine.differences.sending import compare
from tests.support.ports import PORTS

pytestmark = pytest.mark.skipif(installed_version() != NEWEST_VERSION, reason="the reasons are those of one version")
REPOSITORY = Path(__file__).parents[2]
CASES = [*generate_cases.CASES, *completion_cases.CASES, *chat_cases.CASES, *other_cases.CASES]
STARTED_WITHIN = 240.0
# as the planner sets them where there is no GPU
CPU_FLAGS = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule", "--sleep-on-idle"),
    *("--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"),
)


@contextmanager
def plain_server(model: Path, log: Path) -> Iterator[str]:
    """Run SGLang on a model without this package's hooks, and yield its URL."""
    engine = TOPOLOGY["engine"]
    port = next(PORTS)
    flags = [
        *("--model-path", str(model), "--served-model-name", MODEL, "--port", str(port), "--enable-cache-report"),
        *("--dtype", engine["dtype"], "--max-total-tokens", str(engine["max_total_tokens"])),
        *("--tool-call-parser", engine["tool_call_parser"]),
        *(() if has_gpu() else CPU_FLAGS),
    ]
    command = [sys.executable, "-m", "tests.engine.plain_server", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            # more threads wait for each other where the machine has other work
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
            preexec_fn=tied_to_this_process(),
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTED_WITHIN
        while not is_healthy(url):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.05)
        yield url
    finally:
        stop_process(process, grace=20)


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def found(deployment: Deployment, models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the differences between both servers' replies, by the case's name."""
    with plain_server(models / "llama-base", tmp_path_factory.mktemp("plain") / "log") as plain:
        return asyncio.run(compare(deployment.url, plain, CASES))


def test_cases_have_different_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_reasons_name_cases_that_exist() -> None:
    assert {name for reason in REASONS for name in reason.cases} <= {case.name for case in CASES}


def test_reply_that_differs_from_a_plain_servers_has_a_reason(found: dict[str, list[str]]) -> None:
    assert not (lines := list(unexplained(found))), "\n".join(lines)


def test_reason_whose_difference_no_longer_occurs_is_gone(found: dict[str, list[str]]) -> None:
    assert not (lines := list(unused(found))), "\n".join(lines)
