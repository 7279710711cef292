"""`sun workers restart` on one deployment: two router processes with keys and TLS, emulated workers, and load.

Each worker of the pool `base` reads its costs from a file at its start: a FIFO holds a start back, and nonsense makes
it fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
import yaml

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import run_sun, sun_command
from sun_sglang.errors import UserError
from sun_sglang.files.socket_directory import SocketDirectory
from sun_sglang.launch.control.client import ControlClient
from sun_sglang.launch.control.server import CONTROL_SOCKET
from sun_sglang.launch.rolling_restart.client import restart_workers
from sun_sglang.launch.rolling_restart.messages import RestartRequest
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState, read_state
from tests.support.certificate import self_signed

PATIENCE_S = 120.0
# a request takes a tenth of a second, so that some are in flight when a worker is drained
COSTS = "decode_step: 0.02"
KEY = "user-key-0123456789"
TOPOLOGY: dict[str, Any] = {
    "pools": {
        "base": {
            "role": "decode",
            "model": "none/base",
            "replicas": 2,
            "emulated": {"vocab_size": 1000, "costs": "costs.yaml"},
        },
        "math": {"role": "prefill", "model": "none/math", "replicas": 2},
        "solo": {"role": "prefill", "model": "none/solo"},
    },
    "tasks": {"math": {"prefill": "math", "decode": "base"}, "solo": {"prefill": "solo", "decode": "base"}},
    "backend": "emulated",
    "emulated": {"vocab_size": 1000},
    "router": {
        "port": 0,
        "processes": 2,
        "probe_interval": 0.1,
        "api_keys": "keys.yaml",
        "tls_cert": "cert.pem",
        "tls_key": "key.pem",
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Launch the deployment; its run directory is `run`. The last test of this module may have stopped it."""
    home = tmp_path_factory.mktemp("restart")
    self_signed(home, "localhost")
    (home / "keys.yaml").write_text(yaml.safe_dump({"keys": [{"name": "user", "key": KEY}]}))
    (home / "costs.yaml").write_text(COSTS)
    (home / "sun.yaml").write_text(yaml.safe_dump(TOPOLOGY))
    done = run_sun("launch", str(home / "sun.yaml"), "--detach", "--run-dir", str(home / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    yield home
    run_sun("stop", "--run-dir", str(home / "run"))


@pytest.fixture
def run_dir(home: Path) -> Path:
    return home / "run"


def state_of(run_dir: Path) -> DeploymentState:
    state = read_state(run_dir)
    assert state is not None
    return state


def process(run_dir: Path, name: str) -> ProcessState:
    return next(p for p in state_of(run_dir).processes if p.name == name)


def sun_workers(run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_sun("workers", *arguments, "--run-dir", str(run_dir), timeout=PATIENCE_S)


def states(run_dir: Path) -> dict[str, str]:
    """Return the state of each worker at one process of the router."""
    done = sun_workers(run_dir, "--json")
    assert done.returncode == 0, done.stderr
    return {worker["name"]: worker["state"] for worker in json.loads(done.stdout)}


@asynccontextmanager
async def load(run_dir: Path) -> AsyncIterator[list[int]]:
    """Send requests of both processes until the block ends, and yield the number of tokens of each answer.

    Raises:
        ExceptionGroup: an answer was lost.
    """
    url, answers = state_of(run_dir).url, list[int]()
    body = {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 5, "ignore_eos": True}}

    async def client(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.post(f"{url}/generate", json=body) as reply:
                assert reply.status == 200, await reply.text()
                answers.append(len((await reply.json())["output_ids"]))

    # each connection may reach another process
    headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session, asyncio.TaskGroup() as group:
        clients = [group.create_task(client(session)) for _ in range(4)]
        await wait_until(lambda: len(answers) > 8)
        yield answers
        count = len(answers)
        await wait_until(lambda: len(answers) > count + 8)
        for one in clients:
            one.cancel()
    # the last TLS connections end when the router has answered that they do
    port = urlsplit(url).port
    await wait_until(lambda: not [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr[1] == port])


class Restart:
    """A `sun workers restart` that runs."""

    def __init__(self, run_dir: Path, *arguments: str) -> None:
        command = sun_command("workers", "restart", *arguments, "--run-dir", str(run_dir))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def interrupt(self) -> None:
        """Send what Ctrl-C sends, and return once the command has taken it."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        assert "ends after the present worker" in self.process.stdout.readline()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end, and return the exit code, the rest of the output, and the errors."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output, errors


class Held:
    """Holds back every start of a worker of `base` until `release`."""

    def __init__(self, home: Path) -> None:
        self._costs = home / "costs.yaml"
        self._costs.unlink()
        os.mkfifo(self._costs)

    async def until(self, run_dir: Path, name: str, restarts: int) -> None:
        """Wait until a worker has begun its next start."""

        def begun() -> bool:
            now = process(run_dir, name)
            return now.restarts == restarts and now.phase == Phase.RUNNING

        await wait_until(begun)

    async def release(self) -> None:
        """Let the start that waits go on, and later ones begin at once."""
        content = self._costs.with_name("content.yaml")
        content.write_text(COSTS)
        held = await wait_until(self._open, "a start that reads the costs", accept=lambda opened: opened is not None)
        content.replace(self._costs)
        os.write(held, COSTS.encode())
        os.close(held)

    def _open(self) -> int | None:
        try:
            return os.open(self._costs, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            # nobody reads yet
            return None


async def test_restart_of_a_decode_pool_under_load_loses_no_answer(run_dir: Path) -> None:
    before = {name: process(run_dir, name) for name in ("base-0", "base-1")}
    async with load(run_dir) as answers:
        done = await asyncio.to_thread(sun_workers, run_dir, "restart", "base", "--json")
    assert done.returncode == 0, done.stderr
    assert set(answers) == {5}
    result = json.loads(done.stdout)
    assert [one["worker"] for one in result["restarted"]] == ["base-0", "base-1"]
    assert all(list(one["seconds"]) == ["drain", "stop", "start", "canary"] for one in result["restarted"])
    assert (result["failed"], result["left"]) == (None, [])
    for name, old in before.items():
        now = process(run_dir, name)
        assert (now.restarts, now.url) == (1, old.url)
        assert now.pid != old.pid
        assert now.detail.startswith("restarted on request")


async def test_restart_of_a_prefill_pool_under_load_loses_no_answer(run_dir: Path) -> None:
    async with load(run_dir) as answers:
        done = await asyncio.to_thread(sun_workers, run_dir, "restart", "math")
    assert done.returncode == 0, done.stderr
    assert set(answers) == {5}
    assert [line.split(" after ")[0] for line in done.stdout.splitlines()] == [
        "math-0: serves again",
        "math-1: serves again",
    ]


async def test_second_restart_is_refused_and_an_interrupted_one_brings_its_worker_back(
    home: Path, run_dir: Path
) -> None:
    restarts = process(run_dir, "base-0").restarts
    untouched = process(run_dir, "base-1")
    held = Held(home)
    async with load(run_dir) as answers:
        running = Restart(run_dir, "base")
        await held.until(run_dir, "base-0", restarts + 1)
        second = await asyncio.to_thread(sun_workers, run_dir, "restart", "math")
        assert second.returncode == 1
        assert "another restart is under way (`base-0`: start)" in second.stderr
        await asyncio.to_thread(running.interrupt)
        await held.release()
        code, output, errors = await asyncio.to_thread(running.end)
    assert code == 1
    assert output.startswith("base-0: serves again")
    assert errors == (
        "error: ended on request; restarted: base-0; not touched: base-1 (`sun workers restart NAME` restarts one)\n"
    )
    assert set(answers) == {5}
    assert process(run_dir, "base-1") == untouched
    assert states(run_dir)["base-0"] == "ready"


async def test_worker_that_does_not_come_back_ends_the_restart_and_can_be_restarted_later(
    home: Path, run_dir: Path
) -> None:
    untouched = process(run_dir, "base-1")
    (home / "costs.yaml").write_text("decode_step: soon")
    async with load(run_dir) as answers:
        done = await asyncio.to_thread(sun_workers, run_dir, "restart", "base")
        assert done.returncode == 1
        assert "`base-0` (start): `base-0` ended 3 times before it was ready (exit 1)" in done.stderr
        assert "decode_step: Input should be a valid number" in done.stderr
        assert "Restarted before it: none; not touched: base-1" in done.stderr
        (home / "costs.yaml").write_text(COSTS)
        done = await asyncio.to_thread(sun_workers, run_dir, "restart", "base-0")
    assert done.returncode == 0, done.stderr
    assert set(answers) == {5}
    assert process(run_dir, "base-1") == untouched
    assert states(run_dir)["base-0"] == "ready"


async def test_pool_of_one_and_a_worker_that_was_added_by_url_are_refused_without_a_change(run_dir: Path) -> None:
    before = state_of(run_dir).processes
    assert "`solo-0` is the only worker of `solo`" in await refusal(run_dir, "solo")
    async with RouterClient(state_of(run_dir).url, read_access(run_dir)) as client:
        await client.add_worker("guest", "solo", "http://127.0.0.1:9", None)
        await wait_until(lambda: known_to_router(run_dir), accept=lambda known: all("guest" in one for one in known))
        for name in ("solo", "guest"):
            assert "cannot restart it: `guest`; " in await refusal(run_dir, name)
        assert "own can be restarted by name: `solo-0`" in await refusal(run_dir, "solo")
        assert "no other worker of `solo` is ready now (`guest` is absent: " in await refusal(run_dir, "solo-0")
        await client.remove_worker("guest", force=True)
    await wait_until(lambda: known_to_router(run_dir), accept=lambda known: all("guest" not in one for one in known))
    assert state_of(run_dir).processes == before
    done = await asyncio.to_thread(sun_workers, run_dir, "restart", "solo", "--allow-gap")
    assert done.returncode == 0, done.stderr
    assert states(run_dir)["solo-0"] == "ready"


async def refusal(run_dir: Path, name: str) -> str:
    """Return why the launcher refuses to restart a pool or a worker."""
    async with ControlClient(run_dir) as client:
        with pytest.raises(UserError) as refused:
            await restart_workers(client, RestartRequest(name=name, timeout=PATIENCE_S), lambda _: None)
    return str(refused.value)


async def known_to_router(run_dir: Path) -> list[set[str]]:
    """Return the workers that each process of the router knows."""
    known = []
    directory = SocketDirectory(run_dir)
    for number in range(2):
        connector = aiohttp.UnixConnector(directory.address(f"router-{number}.sock"))
        async with (
            aiohttp.ClientSession(connector=connector, headers=read_access(run_dir).headers) as session,
            session.get("http://router/workers") as reply,
        ):
            known.append({worker["name"] for worker in (await reply.json())["workers"]})
    directory.close()
    return known


async def test_stop_during_a_restart_ends_everything(home: Path, run_dir: Path) -> None:
    """The deployment of this module has ended after it."""
    state = state_of(run_dir)
    held = Held(home)
    running = Restart(run_dir, "base")
    await held.until(run_dir, "base-0", process(run_dir, "base-0").restarts + 1)
    family = psutil.Process(state.pid).children(recursive=True)
    stop = await asyncio.to_thread(run_sun, "stop", "--run-dir", str(run_dir), timeout=PATIENCE_S)
    assert stop.returncode == 0, stop.stdout + stop.stderr
    code, _, errors = await asyncio.to_thread(running.end)
    assert code == 1
    assert "`base-0` (start): the deployment is stopping, and its workers end" in errors
    assert [one for one in family if one.is_running()] == []
    ended = state_of(run_dir)
    assert (ended.phase, ended.alive) == (Phase.STOPPED, False)
    assert CONTROL_SOCKET not in os.listdir(run_dir)  # noqa: PTH208 - Path.iterdir blocks as well
    done = await asyncio.to_thread(sun_workers, run_dir, "restart", "base")
    assert (done.returncode, done.stderr) == (1, f"error: {run_dir} is not running\n")
