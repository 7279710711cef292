"""Keys and several router processes as a user has them: by `sun launch`, with emulated workers."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml

from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import read_state

KEY = "user-key-0123456789"
TOPOLOGY: dict[str, Any] = {
    "pools": {
        # null: SGLang's own cache, which the launcher notes
        "base": {"role": "decode", "model": "none/base", "replicas": 2, "engine": {"radix_cache_backend": None}},
        "math": {"role": "prefill", "model": "none/math"},
    },
    "tasks": {"math": {"prefill": "math", "decode": "base", "weight": 2}},
    "backend": "emulated",
    "emulated": {"vocab_size": 1000},
    "router": {"port": 0, "processes": 2, "api_keys": "keys.yaml", "max_requests": 64},
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # deeper than the address of a unix socket may be
    home = tmp_path_factory.mktemp("two") / ("deep" * 20) / ("deeper" * 20)
    home.mkdir(parents=True)
    (home / "keys.yaml").write_text(yaml.safe_dump({"keys": [{"name": "user", "key": KEY, "metrics": True}]}))
    (home / "sun.yaml").write_text(yaml.safe_dump(TOPOLOGY))
    done = run_sun("launch", str(home / "sun.yaml"), "--detach", "--run-dir", str(home / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    (home / "launch.out").write_text(done.stdout)
    yield home / "run"
    done = run_sun("stop", "--run-dir", str(home / "run"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_detached_launch_prints_what_the_plan_notes(run_dir: Path) -> None:
    printed = (run_dir.parent / "launch.out").read_text()
    assert "note: Pool `base` sets `radix_cache_backend` itself" in printed


async def test_every_connection_is_served_whichever_process_takes_it(run_dir: Path) -> None:
    state = read_state(run_dir)
    assert state is not None
    assert [p.name for p in state.processes if p.role == "router"] == ["router-0", "router-1"]
    headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
    body = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 3}}
    async with aiohttp.ClientSession(headers=headers) as client:
        for _ in range(20):
            async with client.post(f"{state.url}/generate", json=body) as r:
                assert r.status == 200, await r.text()
        page = await merged_metrics(client, state.url)
        async with client.get(f"{state.url}/tasks") as r:
            assert r.status == 403
    counts = [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith("sun_requests_total{")]
    assert sum(counts) == 20


async def merged_metrics(client: aiohttp.ClientSession, url: str) -> str:
    """Return the metrics page once it holds both processes: it lacks one that does not answer the other at once."""
    async with asyncio.timeout(60):
        while True:
            async with client.get(f"{url}/metrics") as r:
                page = await r.text()
            if all(f'process="{i}"' in page for i in range(2)):
                return page


def math_is_ready(run_dir: Path) -> bool:
    (shown,) = json.loads(run_sun("status", "--run-dir", str(run_dir), "--json").stdout)
    return bool(shown["tasks"] and shown["tasks"]["math"]["ready"])


def test_the_launchers_own_key_opens_status_and_changes(run_dir: Path) -> None:
    assert stat.S_IMODE((run_dir / "admin.key").stat().st_mode) == 0o600
    # where a process does not answer at once, there is nothing to show, or it is not ready
    deadline = time.monotonic() + 60
    while not math_is_ready(run_dir):
        assert time.monotonic() < deadline
    done = run_sun("workers", "drain", "base-0", "--run-dir", str(run_dir), "--json")
    assert done.returncode == 0, done.stderr
    assert {w["name"]: w["state"] for w in json.loads(done.stdout)}["base-0"] == "draining"
    assert run_sun("workers", "resume", "base-0", "--run-dir", str(run_dir)).returncode == 0


def test_no_key_is_on_a_command_line_or_in_a_file_that_others_read(run_dir: Path) -> None:
    secrets = [KEY, *((run_dir / name).read_text() for name in ("admin.key", "worker.key"))]
    state = read_state(run_dir)
    assert state is not None
    lines = [" ".join(psutil.Process(p.pid).cmdline()) for p in state.processes]
    files = [f for f in run_dir.rglob("*") if f.is_file() and stat.S_IMODE(f.stat().st_mode) != 0o600]
    assert len(files) >= 6
    assert not any(secret in text for secret in secrets for text in [*lines, *(f.read_text("latin-1") for f in files)])


async def test_a_launched_worker_refuses_everybody_without_the_worker_key(run_dir: Path) -> None:
    """With the key a client can abort every request and read the card at a worker's port, and without it nothing."""
    state = read_state(run_dir)
    assert state is not None
    url = next(p.url for p in state.processes if p.role == "decode")
    everything = json.dumps({"abort_all": True})
    async with aiohttp.ClientSession(url) as client:
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}"}):
            async with client.post("/abort_request", data=everything, headers=wrong) as r:
                assert r.status == 401
            async with client.get("/sun/worker", headers=wrong) as r:
                assert r.status == 401
        async with client.get("/sun/worker", headers=worker_headers(run_dir)) as r:
            assert r.status == 200, await r.text()
