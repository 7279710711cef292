"""Run a plan at a place: one router, its workers, restarts, and an end that leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TextIO

from sun_sglang.contracts.fleet_file import Fleet, FleetWorker, write_fleet
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.control.server import ControlServer
from sun_sglang.launch.places.place import Place, Running, Slot, needs_of
from sun_sglang.launch.planning.plan import ADMIN_KEY, WORKER_KEY, LaunchPlan, RouterPlan, WorkerPlan
from sun_sglang.launch.rolling_restart.launched import Launched
from sun_sglang.launch.rolling_restart.restarts import Restarts
from sun_sglang.launch.router_access import new_key, read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState, write_state
from sun_sglang.launch.supervision.readiness import Limits, process_obstacle, router_obstacle, timeout_obstacle
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess
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
        self._worker_key = ""
        self._slots: dict[str, Slot] = {}
        self._routers = [self._supervised_router(plan.router, i) for i in range(plan.router.processes)]
        self._workers = {worker.name: self._supervised_worker(worker) for worker in plan.workers}
        self._restarts = Restarts(
            Launched(self._workers, lambda: self._phase, self._connect, limits, plan.transfer, plan.router.log.parent)
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
        )

    @property
    def _processes(self) -> tuple[SupervisedProcess, ...]:
        return (*self._routers, *self._workers.values())

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
        """Reserve a slot for every worker, and write the keys and the router's fleet file."""
        for worker in self.plan.workers:
            await self._reserve(worker)
        run_dir = self.plan.run_dir
        try:
            self._worker_key = new_key(run_dir / WORKER_KEY)
            new_key(run_dir / ADMIN_KEY)
            write_fleet(self.plan.router.fleet, self._fleet())
        except OSError as e:
            raise LaunchError(f"{run_dir} cannot be written: {e}") from e

    async def _run(self) -> None:
        supervising = [asyncio.create_task(process.run()) for process in self._processes]
        try:
            async with self._connect() as client:
                await self._watch(client)
        except LaunchError as e:
            self._enter(Phase.FAILED, str(e).splitlines()[0])
            raise
        finally:
            await self._shut_down()
            await asyncio.gather(*supervising)
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
            process = self._workers.get(worker.name)
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
        # the router first: it lets requests in flight finish while their workers still run
        router_grace = self.plan.router.drain_timeout + self._limits.router_grace
        await asyncio.gather(*(process.stop(router_grace) for process in self._routers))
        await asyncio.gather(*(process.stop(self._limits.worker_grace) for process in self._workers.values()))
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

    def _supervised_worker(self, worker: WorkerPlan) -> SupervisedProcess:
        state = _new_state(worker.name, worker.pool, worker.role, "", worker.log)

        async def start(_restarts: int) -> Running:
            return await self._place.start(self._slots[worker.name], worker.with_key(self._worker_key))

        return SupervisedProcess(state, start, self._changed, prepare=partial(self._prepare_restart, worker))

    async def _prepare_restart(self, worker: WorkerPlan, lost: bool) -> None:
        if lost:
            await self._move(worker)
        else:
            await self._slots[worker.name].wait_free()

    async def _move(self, worker: WorkerPlan) -> None:
        """Give a worker whose machine is lost another slot, and register its new URL at the router.

        Raises:
            LaunchError: the place has no room, or the router does not answer or refuses the change. The next try may
                succeed.
        """
        await self._place.release(self._slots[worker.name])
        try:
            slot = await self._reserve(worker)
            async with self._connect() as client:
                if worker.name in {known["name"] for known in await client.workers()}:
                    await client.remove_worker(worker.name, force=True)
                await client.add_worker(worker.name, worker.pool, slot.address.url, self._worker_key)
        except UserError as e:
            raise LaunchError(f"{worker.name} cannot move to another machine: {e}") from e

    async def _reserve(self, worker: WorkerPlan) -> Slot:
        slot = await self._place.reserve(worker.name, needs_of(worker))
        self._slots[worker.name] = slot
        self._workers[worker.name].set(url=slot.address.url)
        return slot

    def _supervised_router(self, router: RouterPlan, process: int) -> SupervisedProcess:
        log = router.log_of(process)
        state = _new_state(log.stem, "", "router", router.url, log)

        async def start(_restarts: int) -> Running:
            return await self._start_router(router, process)

        return SupervisedProcess(state, start, self._changed, steady_after=self._limits.router_steady_after)

    def _fleet(self) -> Fleet:
        workers = (
            FleetWorker(name=w.name, pool=w.pool, url=self._slots[w.name].address.url, key=self._worker_key)
            for w in self.plan.workers
        )
        return self.plan.fleet.model_copy(update={"workers": tuple(workers)})


def _new_state(name: str, pool: str, role: str, url: str, log: Path) -> ProcessState:
    return ProcessState(name=name, pool=pool, role=role, phase=Phase.STARTING, pid=0, url=url, log=log, restarts=0)
