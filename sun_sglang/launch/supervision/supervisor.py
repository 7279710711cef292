"""Runs a plan on this machine: one router, its workers, restarts, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import orjson

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local.remains import GpuMemory
from sun_sglang.launch.places.local.start_methods import Running, StartMethod, with_parent
from sun_sglang.launch.planning.plan import ADMIN_KEY, WORKER_KEY, LaunchPlan, RouterPlan, WorkerPlan
from sun_sglang.launch.router_access import new_key, read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState, write_state
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess
from sun_sglang.private_file import write_private
from sun_sglang.processes import start_ticks

_POLL = 0.25
_EARLY_ENDS_ALLOWED = 3
# Canaries over one path that may fail in one way, one after the other: 45 s of pauses between them, and up to 30 s for
# each that waits for its deadline. Kernels that are compiled for the first request delay a few.
_SAME_FAULTS_ALLOWED = 8
# what the router takes to end beyond its time to drain: errors to write, connections to close
_ROUTER_GRACE = 5.0
# it listens a second after its start
_ROUTER_STEADY_AFTER = 60.0
_WORKER_GRACE = 10.0


class Supervisor:
    """One deployment, from its plan to its end.

    Args:
        plan: what to run.
        topology: the file that it came from.
        start_method: how workers are started.
        ports: free ports, for the bootstrap port of every restart.
        changed: called after every change, with the state and what the router last said.
        ready_timeout: seconds that everything may take to become ready.
        claimed: the lock on the deployment's directory, held until everything has ended.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        topology: Path,
        start_method: StartMethod,
        ports: Iterator[int],
        changed: Callable[[DeploymentState, TasksReport | None], None],
        ready_timeout: float,
        claimed: TextIO,
    ) -> None:
        self.plan = plan
        self._ready_timeout = ready_timeout
        self._claimed = claimed
        self.report: TasksReport | None = None
        self._topology = topology
        self._start_method = start_method
        self._ports = ports
        self._on_change = changed
        self._phase = Phase.STARTING
        self._detail = ""
        self._began = time.monotonic()
        self._seconds_to_ready: float | None = None
        self._stop = asyncio.Event()
        self._worker_key = ""
        self._unwritten = ""
        self._gpu_memory = GpuMemory(plan.workers)
        self._routers = [self._supervised_router(plan.router, i) for i in range(plan.router.processes)]
        self._workers = [self._supervised_worker(worker) for worker in plan.workers]

    @property
    def state(self) -> DeploymentState:
        """What it looks like now."""
        return DeploymentState(
            topology=self._topology,
            pid=os.getpid(),
            created=start_ticks(os.getpid()) or 0,
            phase=self._phase,
            url=self.plan.router.url,
            transfer=self.plan.transfer.backend,
            seconds_to_ready=self._seconds_to_ready,
            detail=self._detail or self._unwritten,
            processes=tuple(k.state for k in (*self._routers, *self._workers)),
        )

    def stop(self) -> None:
        """Ask it to end; `run` drains and returns."""
        self._stop.set()

    async def run(self) -> None:
        """Start everything, keep it running, and end it when asked to.

        Raises:
            LaunchError: a process ended again and again before the deployment was ready, a worker refuses to run,
                canaries over a path kept failing in one way, or the disk is full.
        """
        try:
            self._worker_key = new_key(self.plan.run_dir / WORKER_KEY)
            _write_fleet(self.plan, self._worker_key)
        except OSError as e:
            raise LaunchError(f"{self.plan.run_dir} cannot be written: {e}") from e
        await self._gpu_memory.open()
        await self._start_method.open()
        supervising = [asyncio.create_task(k.run()) for k in (*self._routers, *self._workers)]
        try:
            async with RouterClient(self.plan.router.url, read_access(self.plan.run_dir)) as client:
                await self._watch(client)
        except LaunchError as e:
            self._enter(Phase.FAILED, str(e).splitlines()[0])
            raise
        finally:
            await self._shut_down()
            await asyncio.gather(*supervising)
            self._enter(self._phase if self._phase == Phase.FAILED else Phase.STOPPED, self._detail)
            self._claimed.close()

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
        workers = self.report.workers if self.report is not None else {}
        for process in self._workers:
            worker = workers.get(process.state.name)
            if worker is not None and worker.incarnation is not None and worker.state in ("ready", "draining"):
                process.serves(worker.incarnation)

    def _require_progress(self) -> None:
        for process in (*self._routers, *self._workers):
            if process.refusal is not None:
                # the fork server refuses before a worker has a log
                log = f"; log: {process.state.log}" if process.state.log.exists() else ""
                raise LaunchError(f"`{process.state.name}` refuses to run: {process.refusal}{log}")
            if process.early_ends >= _EARLY_ENDS_ALLOWED:
                raise LaunchError(
                    f"`{process.state.name}` ended {process.early_ends} times before it was ready "
                    f"({process.state.detail}); the end of {process.state.log}:\n{process.state.log_end}"
                )
        if self.report is not None:
            self._require_accepted(self.report)
        if time.monotonic() - self._began > self._ready_timeout:
            missing = "; ".join(self.report.missing) if self.report is not None else "the router does not answer"
            raise LaunchError(
                f"not ready after {self._ready_timeout:g} s: {missing}; logs: {self.plan.router.log.parent}"
            )

    def _require_accepted(self, report: TasksReport) -> None:
        if report.refused:
            raise LaunchError("the router refuses " + "; ".join(f"`{name}`: {why}" for name, why in report.refused))
        if unfit := [path for path in report.unproven_paths if path.refused]:
            raise LaunchError(f"the router refuses to pair two workers: {unfit[0].why}")
        stuck = [path for path in report.unproven_paths if path.times >= _SAME_FAULTS_ALLOWED]
        if stuck:
            path, transfer = stuck[0], self.plan.transfer
            raise LaunchError(
                f"{path.times} canaries in a row failed from `{path.prefill}` to `{path.decode}`: {path.why}; KV goes "
                f"by `{transfer.backend}` ({transfer.reason}), `disaggregation_transfer_backend` chooses another; "
                f"logs: {self.plan.router.log.parent}"
            )

    async def _shut_down(self) -> None:
        if self._phase != Phase.FAILED:
            self._enter(Phase.STOPPING)
        # the router first: it lets requests in flight finish while their workers still run
        await asyncio.gather(*(k.stop(self.plan.router.drain_timeout + _ROUTER_GRACE) for k in self._routers))
        await asyncio.gather(*(k.stop(_WORKER_GRACE) for k in self._workers))
        await self._start_method.close()

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

    def _supervised_worker(self, worker: WorkerPlan) -> SupervisedProcess:
        async def start(restarts: int) -> Running:
            fresh = worker if restarts == 0 else worker.reincarnated(self._ports)
            return await self._start_method.start(fresh.with_key(self._worker_key))

        async def clear() -> None:
            note = await self._gpu_memory.wait(worker)
            if note:
                # what the worker's own log then says of its memory follows from this; a full disk loses the note alone
                with suppress(OSError), worker.log.open("a", encoding="utf-8") as log:
                    log.write(f"sun launch: {note}\n")

        return SupervisedProcess(_worker_state(worker), start, self._changed, clear=clear)

    def _supervised_router(self, router: RouterPlan, process: int) -> SupervisedProcess:
        async def start(_restarts: int) -> Running:
            return await self._start_router(router, process)

        state = _router_state(router, process)
        return SupervisedProcess(state, start, self._changed, steady_after=_ROUTER_STEADY_AFTER)

    async def _start_router(self, router: RouterPlan, process: int) -> Running:
        with router.log_of(process).open("ab") as log:
            started = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sun_sglang.router",
                str(router.fleet),
                "--process",
                str(process),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=with_parent(),
            )
        return Running(started.pid, started.wait())


def _write_fleet(plan: LaunchPlan, worker_key: str) -> None:
    plan.router.log.parent.mkdir(parents=True, exist_ok=True)
    new_key(plan.run_dir / ADMIN_KEY)
    workers = [worker | {"key": worker_key} for worker in plan.fleet["workers"]]
    fleet = plan.fleet | {"workers": workers}
    write_private(plan.router.fleet, orjson.dumps(fleet, option=orjson.OPT_INDENT_2))


def _router_state(router: RouterPlan, process: int) -> ProcessState:
    return ProcessState(
        name=router.log_of(process).stem,
        pool="",
        role="router",
        phase=Phase.STARTING,
        pid=0,
        url=router.url,
        log=router.log_of(process),
        restarts=0,
    )


def _worker_state(worker: WorkerPlan) -> ProcessState:
    return ProcessState(
        name=worker.name,
        pool=worker.pool,
        role=worker.role,
        phase=Phase.STARTING,
        pid=0,
        url=worker.url,
        log=worker.log,
        restarts=0,
    )
