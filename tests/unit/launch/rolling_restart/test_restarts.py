"""Restarts over the control socket: one at a time, with or without the client that began it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.control.client import ControlClient
from sun_sglang.launch.control.server import ControlServer
from sun_sglang.launch.rolling_restart import operation, restarts
from sun_sglang.launch.rolling_restart.client import cancel_restart, restart_workers
from sun_sglang.launch.rolling_restart.messages import Event, Outcome, RestartRequest
from sun_sglang.launch.rolling_restart.restarts import Restarts
from sun_sglang.launch.state import Phase
from tests.unit.launch.rolling_restart.fake_deployment import FakeDeployment, FakeProcess

POOL = RestartRequest(name="d", timeout=600)


class Launcher:
    """The launcher of a deployment of two decode workers, the first of which is busy."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.deployment = FakeDeployment("d0", "d1")
        self.deployment.in_flight["d0"] = 1
        self.restarts = Restarts(self.deployment.launched)
        self.control = ControlServer(run_dir, self.restarts.routes())
        self.shown: list[Event] = []

    async def ask(self, request: RestartRequest = POOL) -> Outcome:
        async with ControlClient(self.run_dir) as client:
            return await restart_workers(client, request, self.shown.append)

    async def begin(self) -> asyncio.Task[Outcome]:
        """Begin a restart, and return once it waits for the requests of `d0`."""
        asking = asyncio.create_task(self.ask())
        await wait_until(lambda: self.shown and self.deployment.drained)
        return asking

    def release(self) -> None:
        self.deployment.in_flight.clear()


@pytest.fixture
async def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Launcher]:
    monkeypatch.setattr(operation, "_POLL", 0.001)
    monkeypatch.setattr(restarts, "_REPEAT_S", 0.001)
    one = Launcher(tmp_path)
    await one.control.open()
    yield one
    await one.restarts.close()
    await one.control.close()


async def test_second_restart_is_refused_until_the_first_has_ended(launcher: Launcher) -> None:
    asking = await launcher.begin()
    with pytest.raises(LaunchError, match=r"another restart is under way \(`d0`: drain\); wait until it has ended"):
        await launcher.ask(RestartRequest(name="p0", timeout=1, allow_gap=True))
    launcher.release()
    assert len((await asking).restarted) == 2
    assert len((await launcher.ask()).restarted) == 2


async def test_cancel_ends_the_restart_and_puts_the_worker_back(launcher: Launcher) -> None:
    asking = await launcher.begin()
    async with ControlClient(launcher.run_dir) as client:
        await cancel_restart(client)
        outcome = await asking
        with pytest.raises(LaunchError, match="no restart is under way"):
            await cancel_restart(client)
    assert (outcome.cancelled, outcome.left) == (True, ("d0", "d1"))
    assert launcher.deployment.calls == ["drain with a move d0", "resume d0"]


async def test_client_that_leaves_ends_the_restart_and_the_worker_is_put_back(launcher: Launcher) -> None:
    asking = await launcher.begin()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await wait_until(lambda: launcher.deployment.calls == ["drain with a move d0", "resume d0"])
    launcher.release()
    assert len((await launcher.ask()).restarted) == 2


async def test_end_of_the_deployment_ends_the_restart_with_its_reason(launcher: Launcher) -> None:
    asking = await launcher.begin()
    await launcher.restarts.close()
    outcome = await asking
    assert outcome.failed is not None
    assert outcome.failed.reason == "the deployment is stopping, and its workers end"
    with pytest.raises(LaunchError, match="the deployment is stopping; "):
        await launcher.ask()


async def test_defect_that_also_prevents_the_repair_ends_the_restart_with_its_reason(launcher: Launcher) -> None:
    """The router's report cannot be read any more, from the end of the worker's process on."""

    def fail() -> None:
        if "restart d0" in launcher.deployment.calls:
            raise ValueError("no report")

    launcher.deployment.on_report = fail
    launcher.release()
    outcome = await launcher.ask()
    assert outcome.failed is not None
    assert "a defect of the launcher (ValueError('no report'))" in outcome.failed.reason
    assert "`d0` is still drained" in outcome.failed.reason
    assert "`sun workers resume d0`" in outcome.failed.reason


async def test_restart_that_is_asked_for_while_the_deployment_ends_changes_nothing(launcher: Launcher) -> None:
    closing: list[asyncio.Task[None]] = []

    def close() -> None:
        closing.append(asyncio.create_task(launcher.restarts.close()))

    launcher.deployment.on_report = close
    with pytest.raises(LaunchError, match="the deployment is stopping; "):
        await launcher.ask()
    await asyncio.gather(*closing)
    assert launcher.deployment.calls == []


async def test_refused_request_changes_nothing_and_leaves_the_way_free(launcher: Launcher) -> None:
    with pytest.raises(UserError, match="no pool and no worker is named `x`"):
        await launcher.ask(RestartRequest(name="x", timeout=1))
    launcher.deployment.phase = Phase.STARTING
    with pytest.raises(LaunchError, match="the deployment is starting; its workers can be restarted while it is ready"):
        await launcher.ask()
    launcher.deployment.phase = Phase.READY
    launcher.release()
    assert len((await launcher.ask()).restarted) == 2


async def test_defect_is_reported_and_leaves_the_way_free(launcher: Launcher, caplog: pytest.LogCaptureFixture) -> None:
    def fail(process: FakeProcess) -> None:
        launcher.deployment.come_back(process)
        raise ZeroDivisionError("a defect")

    launcher.release()
    launcher.deployment.on_restart = fail
    outcome = await launcher.ask()
    assert outcome.failed is not None
    assert "ZeroDivisionError('a defect')" in outcome.failed.reason
    assert "Traceback" in caplog.text
    launcher.deployment.on_restart = launcher.deployment.come_back
    assert len((await launcher.ask()).restarted) == 2


async def test_last_event_is_repeated_while_nothing_happens(launcher: Launcher) -> None:
    asking = await launcher.begin()
    await wait_until(lambda: len(launcher.shown) > 5)
    assert launcher.shown[-1] == launcher.shown[-2]
    launcher.release()
    await asking
