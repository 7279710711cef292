"""A place that loses a machine: supervision moves the worker and gives the router its new URL."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import UserError
from sun_sglang.launch.deployment import prepare, supervise
from sun_sglang.launch.places.local.place import LocalPlace
from sun_sglang.launch.places.place import Address, Needs, PlaceLostError, Running, Slot
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.launch.state import DeploymentState, Phase
from sun_sglang.launch.supervision.readiness import Limits

WITHIN_S = 180.0
TOPOLOGY = {
    "pools": {"base": {"role": "decode", "model": "none/base"}, "math": {"role": "prefill", "model": "none/math"}},
    "tasks": {"math": {"prefill": "math", "decode": "base"}},
    "backend": "emulated",
    "emulated": {"vocab_size": 1000},
    "router": {"port": 0, "probe_interval": 0.1},
}


class LosableRunning:
    """A start whose machine can be lost; its process is then killed."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._lost = asyncio.Event()
        self.address: Address = running.address
        self.pid: int = running.pid

    async def lose(self) -> None:
        await self._running.send(signal.SIGKILL)
        self._lost.set()

    async def wait(self) -> int:
        ended, lost = (asyncio.ensure_future(one) for one in (self._running.wait(), self._lost.wait()))
        await asyncio.wait((ended, lost), return_when=asyncio.FIRST_COMPLETED)
        for one in (ended, lost):
            one.cancel()
        self._require_machine()
        return int(ended.result())

    async def wait_gone(self) -> None:
        self._require_machine()
        await self._running.wait_gone()

    async def send(self, number: signal.Signals) -> None:
        self._require_machine()
        await self._running.send(number)

    async def logs(self, offset: int = 0) -> AsyncIterator[bytes]:
        self._require_machine()
        async for chunk in self._running.logs(offset):
            yield chunk

    def _require_machine(self) -> None:
        if self._lost.is_set():
            raise PlaceLostError("the machine is lost")


class LosingPlace(LocalPlace):
    """The local place, which can lose the machine of a worker, and then refuses it `refusals` times."""

    starts: dict[str, LosableRunning]
    refusals = 0

    async def reserve(self, worker: str, needs: Needs) -> Slot:
        if self.refusals and worker in getattr(self, "starts", {}):
            self.refusals -= 1
            raise UserError("no machine takes it now")
        return await super().reserve(worker, needs)

    async def start(self, slot: Slot, worker: WorkerPlan) -> Running:
        running = LosableRunning(await super().start(slot, worker))
        self.starts = getattr(self, "starts", {}) | {worker.name: running}
        return running


def served(report: TasksReport) -> str:
    return report.workers["base-0"].url


@pytest.mark.parametrize("refusals", [0, 1])
async def test_worker_on_a_lost_machine_gets_another_slot_and_the_router_its_new_address(
    tmp_path: Path, refusals: int
) -> None:
    file = tmp_path / "sun.yaml"
    file.write_text(yaml.safe_dump(TOPOLOGY))
    place = LosingPlace(tmp_path / "run" / "logs", "plain")
    place.refusals = refusals
    prepared = (await prepare(file, tmp_path / "run", "plain"))._replace(place=place)
    seen: list[tuple[DeploymentState, TasksReport | None]] = []
    news = asyncio.Event()

    def changed(state: DeploymentState, report: TasksReport | None) -> None:
        seen.append((state, report))
        news.set()

    async def until_ready(restarts: int) -> str:
        """Wait until all is ready over one start of `base-0`, and return that worker's URL at the router."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                state, report = seen[-1] if seen else (None, None)
                if state and report and report.all_ready and state.phase == Phase.READY:
                    (base,) = [p for p in state.processes if p.name == "base-0"]
                    if base.restarts == restarts and base.phase == Phase.RUNNING and base.url == served(report):
                        return base.url
                news.clear()
                await news.wait()

    deployment = supervise(prepared, changed, Limits(ready_timeout=WITHIN_S))
    running = asyncio.create_task(deployment.run())
    before = await until_ready(restarts=0)
    await place.starts["base-0"].lose()
    after = await until_ready(restarts=1 + refusals)
    assert before != after
    fleet = json.loads(prepared.plan.router.fleet.read_text())
    assert {worker["name"]: worker["url"] for worker in fleet["workers"]}["base-0"] == after
    deployment.stop()
    await running
    details = {state.detail for states, _ in seen for state in states.processes if state.name == "base-0"}
    assert "the machine is lost" in details
    assert any("no machine takes it now" in detail for detail in details) == bool(refusals)
