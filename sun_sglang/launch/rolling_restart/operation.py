"""Restart workers one after the other: drain, stop, start, canary."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sun_sglang.contracts.tasks_report import PoolReport, TasksReport, WorkerReport
from sun_sglang.errors import LaunchError, SunError, UserError
from sun_sglang.launch.rolling_restart import service
from sun_sglang.launch.rolling_restart.launched import Launched
from sun_sglang.launch.rolling_restart.messages import (
    Event,
    Failure,
    Outcome,
    Progress,
    Restarted,
    RestartRequest,
    Step,
)
from sun_sglang.launch.rolling_restart.service import Before
from sun_sglang.launch.rolling_restart.targets import Member, Target, choose
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.supervision.readiness import process_obstacle, router_obstacle

_POLL = 0.2
# a router process replies late on a busy machine, and a change reaches all of them within half a second
_SETTLED_WITHIN = 30.0

_LOG = logging.getLogger(__name__)


class _CancelledError(Exception):
    """The user asked for an end, and the present worker still runs as before."""


class _RemovedError(LaunchError):
    """The worker has left the router's fleet, so there is nothing to put back."""


class RollingRestart:
    """One restart of one or several workers of a pool.

    Args:
        request: what to restart.
        launched: the deployment.
        client: an open client of its router.
        emit: called with each event.
    """

    def __init__(
        self, request: RestartRequest, launched: Launched, client: RouterClient, emit: Callable[[Event], None]
    ) -> None:
        self._request = request
        self._launched = launched
        self._client = client
        self._emit = emit
        self._target = Target("", ())
        self._cancelled = False
        self._present = Progress(worker="", number=0, of=0, step=Step.DRAIN)
        self._seconds: dict[Step, float] = {}
        self._done: list[Restarted] = []
        # the worker that this restart has drained, and its state before
        self._drained = ""
        self._before: Before | None = None

    @property
    def present(self) -> Progress:
        """The step that is taken now."""
        return self._present

    def cancel(self) -> None:
        """Restart no further worker; the present one is still brought back, or is not touched if it only drains."""
        self._cancelled = True

    async def prepare(self) -> None:
        """Decide which workers are restarted.

        Raises:
            UserError: the request cannot be served as it is; nothing was changed.
            LaunchError: the router does not answer.
        """
        fleet = [Member(w["name"], w["pool"], w["url"], w["state"]) for w in await self._client.workers()]
        urls = {name: process.state.url for name, process in self._launched.processes.items()}
        self._target = choose(self._request, fleet, urls)
        await self._require_cover(self._target.workers[0])

    async def run(self) -> Outcome:
        """Restart the workers, and stop at the first that does not come back."""
        names = self._target.workers
        for number, name in enumerate(names, 1):
            if self._cancelled:
                break
            self._seconds = {}
            self._present = Progress(worker=name, number=number, of=len(names), step=Step.DRAIN)
            try:
                self._done.append(await self._restart(name))
                self._emit(self._done[-1])
            except _CancelledError:
                break
            except _RemovedError as e:
                return self.outcome(str(e))
            except SunError as e:
                return self.outcome(await self._after_failure(name, str(e)))
            except Exception as e:
                _LOG.exception("the restart of %s failed", name)
                defect = f"a defect of the launcher ({e!r}); its output has the traceback"
                return self.outcome(await self._after_failure(name, defect))
        return self.outcome()

    def outcome(self, reason: str = "") -> Outcome:
        """Return the outcome so far.

        Args:
            reason: why the present worker has failed; empty where it has not.
        """
        now, done = self._present, tuple(self._done)
        failed = Failure(worker=now.worker, step=now.step, reason=reason) if reason else None
        left = self._target.workers[len(done) + bool(reason) :]
        return Outcome(restarted=done, failed=failed, left=left, cancelled=self._cancelled)

    async def _restart(self, name: str) -> Restarted:
        before = self._before = await self._drain(name, await self._require_cover(name))
        process = self._launched.processes[name]
        limit = self._launched.limits.ready_timeout
        with self._step(Step.STOP):
            await process.restart(self._launched.limits.worker_grace)
            await self._until(name, lambda _: "its processes have not ended" if process.restart_pending else "", limit)
        with self._step(Step.START):
            await self._until(name, lambda report: service.unnoticed(_worker(report, name), before), limit)
            await self._resume()
            await self._until(name, lambda report: self._unregistered(report, name, before), limit)
        if before.drained:
            return Restarted(worker=name, seconds=self._seconds, drained=True)
        with self._step(Step.CANARY):
            await self._until(name, lambda report: self._unserving(report, name, before), limit)
        return Restarted(worker=name, seconds=self._seconds)

    async def _require_cover(self, name: str) -> Before:
        """Return a worker as it is now, and require that others serve its tasks meanwhile.

        Raises:
            UserError: none does, or no task uses the pool.
            LaunchError: the router does not answer.
        """
        end = time.monotonic() + _SETTLED_WITHIN
        while True:
            report = await self._client.tasks()
            late = time.monotonic() > end
            if report is None:
                if late:
                    raise LaunchError("the router does not answer /tasks; its log tells why")
            elif (pool := service.pool_of(report, self._target.pool)) is None:
                raise UserError(f"no task uses the pool `{self._target.pool}`, so no canary can prove its workers")
            elif name not in {worker.name for worker in pool.workers}:
                raise UserError(f"the router does not use `{name}` any more")
            elif all(worker.agreed for worker in pool.workers) or len(pool.workers) == 1 or late:
                self._require_no_gap(report, pool, name)
                return service.before_restart(report, name)
            await asyncio.sleep(_POLL)

    def _require_no_gap(self, report: TasksReport, pool: PoolReport, name: str) -> None:
        found = service.gap(report, pool, name)
        if found and not self._request.allow_gap:
            raise UserError(
                f"{found}, so nothing would serve its tasks while it restarts; `--allow-gap` restarts it all the same"
            )

    async def _drain(self, name: str, before: Before) -> Before:
        """Wait until a worker has no requests, and return it as it is then. Else it serves on as before."""
        found: list[WorkerReport] = []

        def check(report: TasksReport) -> str:
            found.append(_worker(report, name))
            return service.undrained(found[-1])

        with self._step(Step.DRAIN):
            try:
                if not before.drained:
                    self._drained = name
                    await self._client.change_worker(name, "drain", move=True)
                await self._until(name, check, self._request.timeout)
            except _CancelledError:
                await self._resume()
                raise
        return before._replace(incarnation=found[-1].incarnation)

    async def _resume(self) -> None:
        """Put the worker that was drained here back into the rotation: it serves once a canary has passed."""
        if self._drained:
            await self._client.change_worker(self._drained, "resume")
            self._drained = ""

    async def _until(self, name: str, check: Callable[[TasksReport], str], seconds: float) -> None:
        """Wait until `check` returns an empty text for the router's report.

        Raises:
            LaunchError: the worker cannot get there, or it did not in time.
        """
        end = time.monotonic() + seconds
        process = self._launched.processes[name]
        while True:
            if self._cancelled and self._present.step == Step.DRAIN:
                raise _CancelledError
            report = await self._client.tasks()
            missing = "the router does not answer" if report is None else check(report)
            if not missing:
                return
            if self._present.step == Step.DRAIN:
                self._note_in_flight(report, name)
            elif obstacle := process_obstacle([process], self._launched.limits):
                raise LaunchError(obstacle)
            if time.monotonic() > end:
                raise LaunchError(f"after {seconds:g} s: {missing}; log: {process.state.log}")
            await asyncio.sleep(_POLL)

    def _unregistered(self, report: TasksReport, name: str, before: Before) -> str:
        missing = service.unregistered(_worker(report, name), before)
        if not missing:
            self._require_provable(report, name, before)
        return missing

    def _unserving(self, report: TasksReport, name: str, before: Before) -> str:
        missing = service.unregistered(_worker(report, name), before) or service.unserving(report, name, before)
        self._require_provable(report, name, before)
        return missing

    def _require_provable(self, report: TasksReport, name: str, before: Before) -> None:
        own = service.about(report, name, before.lacking)
        obstacle = router_obstacle(own, self._launched.transfer, self._launched.logs, self._launched.limits)
        if obstacle is not None:
            raise LaunchError(obstacle)

    @contextmanager
    def _step(self, step: Step) -> Iterator[None]:
        self._present = self._present.model_copy(update={"step": step, "in_flight": 0})
        self._emit(self._present)
        began = time.monotonic()
        yield
        self._seconds[step] = round(time.monotonic() - began, 3)

    def _note_in_flight(self, report: TasksReport | None, name: str) -> None:
        worker = report.workers.get(name) if report is not None else None
        if worker is not None and worker.in_flight != self._present.in_flight:
            self._present = self._present.model_copy(update={"in_flight": worker.in_flight})
            self._emit(self._present)

    async def _after_failure(self, name: str, reason: str) -> str:
        """Return why a worker was not restarted, with its state; it is resumed, since it serves only after a canary."""
        process, step = self._launched.processes[name], self._present.step
        try:
            if self._drained and step != Step.DRAIN:
                await self._until_noticed(name)
            await self._resume()
        except Exception as e:
            if not isinstance(e, SunError):
                _LOG.exception("%s could not be put back", name)
            return f"{reason}\n`{name}` is still drained ({e}); `sun workers resume {name}` puts it back"
        if step == Step.DRAIN:
            return f"{reason}\n`{name}` was not restarted, and takes requests as before"
        next_start = (
            "The launcher does not start it again by itself"
            if process.refusal is not None
            else "The launcher keeps it running, and it takes requests once a canary has passed"
        )
        return f"{reason}\n{next_start}; `sun workers restart {name}` tries again"

    async def _until_noticed(self, name: str) -> None:
        """Wait until no router process would send requests to the start that has ended.

        Raises:
            LaunchError: that took too long.
        """
        assert self._before is not None, "set before the process is stopped"
        end = time.monotonic() + _SETTLED_WITHIN
        while True:
            report = await self._client.tasks()
            if report is not None and not service.unnoticed(_worker(report, name), self._before):
                return
            if time.monotonic() > end:
                raise LaunchError("not every process of the router has noticed its end")
            await asyncio.sleep(_POLL)


def _worker(report: TasksReport, name: str) -> WorkerReport:
    """Return a worker of a report.

    Raises:
        _RemovedError: it has left the fleet.
    """
    if (found := report.workers.get(name)) is None:
        raise _RemovedError(f"`{name}` was removed from the router's fleet meanwhile")
    return found
