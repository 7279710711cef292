"""Run a plan at a place: one router, its workers, restarts, and an end that leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TextIO

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError
from sun_sglang.launch.autoscale.pool_scaler import PoolScaler
from sun_sglang.launch.control.server import ControlServer
from sun_sglang.launch.places.place import Place, Running
from sun_sglang.launch.planning.plan import ADMIN_KEY, WORKER_KEY, LaunchPlan, RouterPlan
from sun_sglang.launch.rolling_restart.launched import Launched
from sun_sglang.launch.rolling_restart.restarts import Restarts
from sun_sglang.launch.router_access import new_key, read_access, read_key_file
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import DeploymentState, Phase, new_process, write_state
from sun_sglang.launch.supervision.kept_fleet import kept_fleet, write_fleets
from sun_sglang.launch.supervision.readiness import Limits, process_obstacle, router_obstacle, timeout_obstacle
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess
from sun_sglang.launch.supervision.workers import Workers
from sun_sglang.processes import start_ticks

_POLL = 0.25

Changed = Callable[[DeploymentState, TasksReport | None], None]
StartRouter = Callable[[RouterPlan, int], Awaitable[Running]]


class Supervisor:
    """One deployment, from its plan to its end.

    Args:
        plan: what to run.
        topology: the file that it came from.
        place: where the workers run.
        start_router: starts one process of the router.
        changed: called after every change, with the state and the router's last report.
        claimed: the lock on the deployment's directory, held until everything has ended.
        limits: when to give up.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        topology: Path,
        place: Place,
        start_router: StartRouter,
        changed: Changed,
        claimed: TextIO,
        limits: Limits,
    ) -> None:
        self.plan = plan
        self.report: TasksReport | None = None
        self._topology = topology
        self._place = place
        self._start_router = start_router
        self._on_change = changed
        self._claimed = claimed
        self._limits = limits
        self._phase = Phase.STARTING
        self._detail = ""
        self._unwritten = ""
        self._began = time.monotonic()
        self._seconds_to_ready: float | None = None
        self._stop = asyncio.Event()
        self._routers = [self._supervised_router(plan.router, i) for i in range(plan.router.processes)]
        first = tuple(worker for worker in plan.workers if not worker.standby)
        self._workers = Workers(first, place, self._connect, self._changed, limits.worker_grace)
        self._scalers = [
            PoolScaler(
                scaling,
                [worker for worker in plan.workers if worker.pool == scaling.settings.pool],
                self._workers,
                self._changed,
            )
            for scaling in plan.scaling
        ]
        self._restarts = Restarts(
            Launched(
                self._workers.processes,
                lambda: self._phase,
                self._connect,
                limits,
                plan.transfer,
                plan.router.log.parent,
            )
        )
        self._control = ControlServer(plan.run_dir, self._restarts.routes())

    @property
    def state(self) -> DeploymentState:
        """The deployment's present state."""
        return DeploymentState(
            topology=self._topology,
            pid=os.getpid(),
            created=start_ticks(os.getpid()) or 0,
            phase=self._phase,
            url=self.plan.router.url,
            transfer=self.plan.transfer.backend,
            seconds_to_ready=self._seconds_to_ready,
            detail=self._detail or self._unwritten,
            processes=tuple(process.state for process in self._processes),
            sizes=tuple(scaler.size for scaler in self._scalers),
            outlives_launcher=self._place.outlives_launcher,
        )

    @property
    def _processes(self) -> tuple[SupervisedProcess, ...]:
        return (*self._routers, *self._workers.processes.values())

    def stop(self) -> None:
        """Ask the deployment to end; `run` drains the router and returns."""
        self._stop.set()

    async def run(self) -> None:
        """Start everything, keep it running, and end it after `stop`.

        Raises:
            LaunchError: a process ended again and again before the deployment was ready, a worker refuses to run,
                canaries over a path kept failing in one way, the place has no room, the disk is full, or the directory
                takes no socket.
        """
        try:
            await self._control.open()
            await self._place.open()
            await self._prepare()
            await self._run()
        finally:
            await self._control.close()
            await self._place.close()
            self._claimed.close()

    async def _prepare(self) -> None:
        """Adopt workers of an earlier launcher, reserve a slot for each other one, and write the keys and the fleet."""
        run_dir = self.plan.run_dir
        adopted: tuple[str, ...] = ()
        if self._place.outlives_launcher:
            key = read_key_file(run_dir / WORKER_KEY)
            # without their key none of them can be reached
            adopted = await self._workers.adopt(self.plan.workers if key else ())
            self._workers.key = key
        try:
            if not adopted:
                self._workers.key = new_key(run_dir / WORKER_KEY)
            new_key(run_dir / ADMIN_KEY)
        except OSError as e:
            raise LaunchError(f"{run_dir} cannot be written: {e}") from e
        workers = await self._workers.reserve()
        fleet = kept_fleet(self.plan.fleet, run_dir) if adopted else self.plan.fleet
        try:
            write_fleets(fleet, workers, self.plan)
        except OSError as e:
            raise LaunchError(f"{run_dir} cannot be written: {e}") from e

    async def _run(self) -> None:
        routers = [asyncio.create_task(process.run()) for process in self._routers]
        self._workers.run()
        try:
            async with self._connect() as client:
                await self._watch(client)
        except LaunchError as e:
            self._enter(Phase.FAILED, str(e).splitlines()[0])
            raise
        finally:
            await self._shut_down()
            await asyncio.gather(*routers, self._workers.ended())
            self._enter(self._phase if self._phase == Phase.FAILED else Phase.STOPPED, self._detail)

    async def _watch(self, client: RouterClient) -> None:
        while not self._stop.is_set():
            self.report = await client.tasks()
            self._note_serving()
            if self._phase == Phase.STARTING:
                self._require_progress()
                if self.report is not None and self.report.all_ready:
                    self._seconds_to_ready = time.monotonic() - self._began
                    self._enter(Phase.READY)
            elif self._phase == Phase.READY and self.report is not None:
                for scaler in self._scalers:
                    scaler.observe(self.report, held=self._restarts.under_way)
            self._on_change(self.state, self.report)
            try:
                async with asyncio.timeout(_POLL if self._phase == Phase.STARTING else 4 * _POLL):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def _note_serving(self) -> None:
        for router in self._routers:
            router.settle()
        for worker in self.report.workers.values() if self.report is not None else ():
            process = self._workers.processes.get(worker.name)
            if process is not None and worker.incarnation is not None and worker.state in ("ready", "draining"):
                process.serves(worker.incarnation)

    def _require_progress(self) -> None:
        limits, logs = self._limits, self.plan.router.log.parent
        obstacle = process_obstacle(self._processes, limits)
        if obstacle is None and self.report is not None:
            obstacle = router_obstacle(self.report, self.plan.transfer, logs, limits)
        obstacle = obstacle or timeout_obstacle(time.monotonic() - self._began, self.report, logs, limits)
        if obstacle is not None:
            raise LaunchError(obstacle)

    async def _shut_down(self) -> None:
        if self._phase != Phase.FAILED:
            self._enter(Phase.STOPPING)
        await self._restarts.close()
        for scaler in self._scalers:
            await scaler.close()
        # the router first: it lets requests in flight finish while their workers still run
        router_grace = self.plan.router.drain_timeout + self._limits.router_grace
        await asyncio.gather(*(process.stop(router_grace) for process in self._routers))
        await self._workers.stop()
        # a start that is under way ends with its place
        await self._place.close()

    def _enter(self, phase: Phase, detail: str = "") -> None:
        self._phase, self._detail = phase, detail
        self._changed()

    def _changed(self) -> None:
        try:
            write_state(self.plan.run_dir, self.state)
            self._unwritten = ""
        except OSError as e:
            # a full disk must not end what runs; the next change writes the state again
            self._unwritten = f"its state cannot be written: {e}"
        self._on_change(self.state, self.report)

    def _connect(self) -> RouterClient:
        return RouterClient(self.plan.router.url, read_access(self.plan.run_dir))

    def _supervised_router(self, router: RouterPlan, process: int) -> SupervisedProcess:
        log = router.log_of(process)
        state = new_process(log.stem, "router", log, url=router.url)

        async def start(_restarts: int) -> Running:
            return await self._start_router(router, process)

        return SupervisedProcess(state, start, self._changed, steady_after=self._limits.router_steady_after)
