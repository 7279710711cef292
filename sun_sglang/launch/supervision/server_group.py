"""Run SGLang servers without a router: start them, wait until they answer, and end them together."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp

from sun_sglang.contracts.worker_key import bearer
from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.place import Place, Running, Slot, needs_of
from sun_sglang.launch.planning.plan import WORKER_KEY, WorkerPlan
from sun_sglang.launch.router_access import new_key
from sun_sglang.launch.state import DeploymentState, Phase, new_process, write_state
from sun_sglang.launch.supervision.readiness import Limits, process_obstacle
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess
from sun_sglang.processes import start_ticks

_POLL = 0.25
_HEALTH_WITHIN = aiohttp.ClientTimeout(total=5.0)


class ServerGroup:
    """Servers that are started together. A server that ends before it answered ends all of them.

    Args:
        workers: the servers.
        file: the file that they came from.
        place: where they run.
        run_dir: directory of their state, their key and their logs; exists.
        limits: when to give up.
        changed: called after every change, with the state.
    """

    def __init__(
        self,
        workers: Sequence[WorkerPlan],
        file: Path,
        place: Place,
        run_dir: Path,
        limits: Limits,
        changed: Callable[[DeploymentState], None] = lambda _: None,
    ) -> None:
        self._workers = workers
        self._file = file
        self._place = place
        self._run_dir = run_dir
        self._limits = limits
        self._on_change = changed
        self._phase = Phase.STARTING
        self._began = time.monotonic()
        self._seconds_to_ready: float | None = None
        self._stop = asyncio.Event()
        self._key = ""
        self._slots: dict[str, Slot] = {}
        self._processes = {worker.name: self._supervised(worker) for worker in workers}
        self._ready: set[str] = set()

    @property
    def state(self) -> DeploymentState:
        """The present state; the URL of each server is in `processes`."""
        return DeploymentState(
            topology=self._file,
            pid=os.getpid(),
            created=start_ticks(os.getpid()) or 0,
            phase=self._phase,
            url="",
            transfer="",
            seconds_to_ready=self._seconds_to_ready,
            detail="",
            processes=tuple(process.state for process in self._processes.values()),
        )

    def stop(self) -> None:
        """Ask the servers to end; `run` returns when they have ended."""
        self._stop.set()

    async def run(self) -> None:
        """Start all servers, keep them running, and end them after `stop`.

        Raises:
            LaunchError: a server ended before it answered, or none answers in time; or the place has no room.
        """
        try:
            await self._place.open()
            for worker in self._workers:
                self._slots[worker.name] = await self._place.reserve(worker.name, needs_of(worker))
                self._processes[worker.name].set(url=self._slots[worker.name].address.url)
            self._key = new_key(self._run_dir / WORKER_KEY)
            await self._run()
        finally:
            await self._place.close()

    async def _run(self) -> None:
        supervising = [asyncio.create_task(process.run()) for process in self._processes.values()]
        try:
            async with aiohttp.ClientSession(timeout=_HEALTH_WITHIN, headers=bearer(self._key)) as session:
                while self._phase == Phase.STARTING and not self._stop.is_set():
                    await self._note_ready(session)
                    self._require_progress()
                    await self._pause()
            await self._stop.wait()
        except LaunchError:
            self._enter(Phase.FAILED)
            raise
        finally:
            if self._phase != Phase.FAILED:
                self._enter(Phase.STOPPING)
            grace = self._limits.worker_grace
            await asyncio.gather(*(process.stop(grace) for process in self._processes.values()))
            # a start that is under way ends with its place
            await self._place.close()
            await asyncio.gather(*supervising)
            self._enter(self._phase if self._phase == Phase.FAILED else Phase.STOPPED)

    async def _note_ready(self, session: aiohttp.ClientSession) -> None:
        for name, process in self._processes.items():
            if name not in self._ready and await _answers(session, self._slots[name].address.url):
                self._ready.add(name)
                process.serves(f"start {process.state.restarts}")
        if len(self._ready) == len(self._processes):
            self._seconds_to_ready = time.monotonic() - self._began
            self._enter(Phase.READY)

    def _require_progress(self) -> None:
        obstacle = process_obstacle(self._processes.values(), self._limits)
        waited = time.monotonic() - self._began
        if obstacle is None and self._phase == Phase.STARTING and waited > self._limits.ready_timeout:
            missing = ", ".join(f"`{name}`" for name in self._processes if name not in self._ready)
            logs = self._run_dir / "logs"
            obstacle = f"not ready after {self._limits.ready_timeout:g} s: {missing}; logs: {logs}"
        if obstacle is not None:
            raise LaunchError(obstacle)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_POLL):
                await self._stop.wait()
        except TimeoutError:
            return

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._changed()

    def _changed(self) -> None:
        # a full disk must not end what runs; the next change writes the state again
        with suppress(OSError):
            write_state(self._run_dir, self.state)
        self._on_change(self.state)

    def _supervised(self, worker: WorkerPlan) -> SupervisedProcess:
        state = new_process(worker.name, "server", worker.log, pool=worker.pool)

        async def start(_restarts: int) -> Running:
            return await self._place.start(self._slots[worker.name], worker.with_key(self._key))

        async def prepare(_lost: bool) -> None:
            await self._slots[worker.name].wait_free()

        return SupervisedProcess(state, start, self._changed, prepare=prepare)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether a server is healthy."""
    try:
        async with session.get(f"{url}/health") as reply:
            return reply.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
