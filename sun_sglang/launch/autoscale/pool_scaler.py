"""Size one pool: decide at each report of the router, and start, drain and stop its workers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.policy import Autoscaler, Decision, Member, MemberState
from sun_sglang.autoscaling.step_cost import StepCost
from sun_sglang.contracts.tasks_report import TasksReport, WorkerReport
from sun_sglang.errors import SunError
from sun_sglang.launch.autoscale.observed import StepReader, members_of
from sun_sglang.launch.autoscale.settings import bounds_of, cost_estimate
from sun_sglang.launch.planning.plan import PoolScaling, WorkerPlan
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import Phase, PoolSize, ProcessState

# ends of a worker, one after the other and each before it served, after which it is given up
_MOST_EARLY_ENDS = 3
# seconds until every process of the router shows a change
_SHOWN_WITHIN = 10.0

# the reason changes with every report, and the state file holds all workers
_SHOW_REASON_EVERY = 5.0

_LOG = logging.getLogger(__name__)


class Fleet(Protocol):
    """The launcher's workers, which a scaler changes."""

    def states(self) -> dict[str, ProcessState]:
        """Return the states of the workers that run or are kept running, by name."""
        ...

    async def start_worker(self, worker: WorkerPlan) -> None:
        """Give a worker a slot, keep it running, and add it to the router.

        Raises:
            LaunchError: the place has no room, or the router does not answer.
            UserError: the place cannot run it, or the router refuses it.
        """

    async def stop_worker(self, name: str) -> None:
        """Remove a worker from the router, end its processes and give its slot back; no error if it is not there.

        Raises:
            LaunchError: the router does not answer.
        """

    def connect(self) -> RouterClient:
        """Return a client of the router."""
        ...


@dataclass
class _Boot:
    """A worker that the policy started.

    Attributes:
        since: clock time of the decision.
        shown_by: clock time by which the router's report has it; infinite until it was added there.
    """

    since: float
    shown_by: float = math.inf


class PoolScaler:
    """The sizing of one pool.

    Args:
        scaling: its settings and costs.
        workers: every worker that it may have.
        fleet: the launcher's workers.
        changed: called after `size` has changed; for its reason alone, not each time.
        now: returns clock seconds.
    """

    def __init__(
        self,
        scaling: PoolScaling,
        workers: Iterable[WorkerPlan],
        fleet: Fleet,
        changed: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = scaling.settings.pool
        self._plans = {worker.name: worker for worker in workers}
        self._fleet = fleet
        self._changed = changed
        self._now = now
        self._policy = Autoscaler(bounds_of(scaling.settings))
        self._cost = cost_estimate(scaling)
        self._steps = StepReader()
        self._booting: dict[str, _Boot] = {}
        # until the router's report shows it, or this clock time
        self._resuming: dict[str, float] = {}
        # until the router was told, infinite; then until its report shows it
        self._draining: dict[str, float] = {}
        self._leaving: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: int | None = None
        self._shown_at = now()
        initial = sum(not worker.standby for worker in self._plans.values())
        bounds = self._policy.bounds
        self._size = PoolSize(
            pool=self.pool,
            workers=initial,
            least=bounds.least,
            most=bounds.most,
            boot_seconds=self._policy.boot,
            serving=0,
        )

    @property
    def size(self) -> PoolSize:
        """The pool's present size, for people."""
        return self._size

    def observe(self, report: TasksReport, *, held: bool) -> None:
        """Decide, and begin to carry the decision out.

        Args:
            report: the router's report.
            held: something else changes the pool's workers, so nothing is changed now.
        """
        now = self._now()
        workers = {name: worker for name, worker in report.workers.items() if name in self._plans}
        self._note_work(now, report, workers)
        self._note_changes(now, workers)
        self._note_boots(now, workers)
        members = members_of(
            self._plans,
            self._fleet.states(),
            workers,
            starting={*self._booting, *self._resuming},
            draining=self._draining,
            leaving=self._leaving,
        )
        decision = self._policy.decide(now, members, self._current_cost(workers))
        self._retire(workers)
        self._show(decision, members, held=held)
        if not held:
            self._carry_out(decision)

    async def close(self) -> None:
        """End what is under way, since the deployment ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what the policy reads ------------------------------------------------------------------------------------

    def _note_work(self, now: float, report: TasksReport, workers: dict[str, WorkerReport]) -> None:
        if report.offered is not None:
            offered = report.offered.get(self.pool)
            demand = Demand() if offered is None else Demand(**offered.model_dump())
            self._policy.note_demand(now, demand)
        for steps in self._steps.read(workers.values()):
            self._cost.note(steps)

    def _note_changes(self, now: float, workers: dict[str, WorkerReport]) -> None:
        """Forget the drains and resumes that the report shows, and those that somebody else has undone."""
        for name, until in list(self._resuming.items()):
            if now > until or name not in workers or workers[name].state != "draining":
                del self._resuming[name]
        for name, until in list(self._draining.items()):
            if now > until and name in workers and workers[name].state == "ready":
                del self._draining[name]

    def _note_boots(self, now: float, workers: dict[str, WorkerReport]) -> None:
        """Note the boots that have ended, and give up those that will not end."""
        processes = self._fleet.states()
        for name, boot in list(self._booting.items()):
            if boot.shown_by == math.inf:
                continue
            process, worker = processes.get(name), workers.get(name)
            if worker is not None and worker.state == "ready" and worker.agreed:
                del self._booting[name]
                self._policy.note_boot(now - boot.since)
                _LOG.info("%s serves %.1f s after the decision to start it", name, now - boot.since)
            elif process is not None and (process.phase == Phase.FAILED or process.restarts >= _MOST_EARLY_ENDS):
                self._give_up(name, f"{name} does not start: {process.detail}; its log is {process.log}")
            elif worker is not None and worker.state == "refused":
                self._give_up(name, f"the router refuses {name}: {worker.reason}")
            elif now > boot.shown_by and (worker is None or worker.state == "draining"):
                # somebody else has taken it out of the rotation
                del self._booting[name]

    def _give_up(self, name: str, why: str) -> None:
        """Stop a worker that was started in vain, and start none for a while."""
        del self._booting[name]
        self._policy.note_refused_start(self._now())
        self._leaving.add(name)
        self._begin(self._stop(name))
        self._note(why)

    def _current_cost(self, workers: dict[str, WorkerReport]) -> StepCost | None:
        cost = self._cost.current
        known = [worker.steps.kv_tokens for worker in workers.values() if worker.steps and worker.steps.kv_tokens]
        return cost._replace(kv_tokens=min(known)) if cost is not None and known else cost

    # --- what it changes ------------------------------------------------------------------------------------------

    def _carry_out(self, decision: Decision) -> None:
        for name in decision.resume:
            del self._draining[name]
            self._resuming[name] = self._now() + _SHOWN_WITHIN
            self._begin(self._resume(name))
        for name in decision.start:
            self._booting[name] = _Boot(self._now())
            self._begin(self._start(name))
        for name in decision.drain:
            boot = self._booting.get(name)
            if boot is not None and boot.shown_by == math.inf:
                # its start is under way, and is decided about again once it has ended
                continue
            self._booting.pop(name, None)
            self._resuming.pop(name, None)
            self._draining[name] = math.inf
            self._begin(self._drain(name))
        if decision.workers != self._told:
            self._told = decision.workers
            self._begin(self._tell(decision.workers))

    def _retire(self, workers: dict[str, WorkerReport]) -> None:
        """Stop the drained workers that have no request left, in any process of the router."""
        for name in list(self._draining):
            worker = workers.get(name)
            # a worker that the router does not report was removed, or never registered
            if worker is None or (worker.state != "ready" and worker.agreed and not worker.in_flight):
                del self._draining[name]
                self._leaving.add(name)
                self._begin(self._stop(name))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._report_defects(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_defects(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as e:
            _LOG.exception("a change of the pool %s failed", self.pool)
            self._note(f"a change failed by a defect of the launcher ({e!r}); its output has the traceback")

    async def _start(self, name: str) -> None:
        try:
            await self._fleet.start_worker(self._plans[name])
        except (SunError, OSError) as e:
            self._policy.note_refused_start(self._now())
            self._booting.pop(name, None)
            self._note(f"{name} cannot be started: {e}")
            return
        self._booting[name].shown_by = self._now() + _SHOWN_WITHIN

    async def _resume(self, name: str) -> None:
        try:
            async with self._fleet.connect() as client:
                await client.change_worker(name, "resume")
        except (SunError, OSError) as e:
            # it is still out of the rotation, so the next decision may take it back
            self._resuming.pop(name, None)
            self._draining[name] = math.inf
            self._note(f"{name} cannot be taken back: {e}")

    async def _drain(self, name: str) -> None:
        try:
            async with self._fleet.connect() as client:
                await client.change_worker(name, "drain", move=True)
        except (SunError, OSError) as e:
            self._draining.pop(name, None)
            self._note(f"{name} cannot be drained: {e}")
            return
        if name in self._draining:
            self._draining[name] = self._now() + _SHOWN_WITHIN

    async def _stop(self, name: str) -> None:
        try:
            await self._fleet.stop_worker(name)
        except (SunError, OSError) as e:
            self._draining[name] = math.inf
            self._note(f"{name} cannot be stopped: {e}")
        finally:
            self._leaving.discard(name)

    async def _tell(self, workers: int) -> None:
        """Tell the router the size, for its metrics."""
        try:
            async with self._fleet.connect() as client:
                await client.set_pool_size(self.pool, workers)
        except (SunError, OSError) as e:
            self._told = None
            _LOG.warning("the size of `%s` is not in the router's metrics: %s", self.pool, e)

    # --- what people see ------------------------------------------------------------------------------------------

    def _show(self, decision: Decision, members: list[Member], *, held: bool) -> None:
        count = {state: sum(member.state is state for member in members) for state in MemberState}
        before = self._size
        self._size = self._size.model_copy(
            update={
                "workers": decision.workers,
                "serving": count[MemberState.SERVING],
                "starting": count[MemberState.STARTING],
                "draining": count[MemberState.DRAINING],
                "reason": decision.reason + ("; a restart is under way" if held and decision.changes else ""),
                "boot_seconds": self._policy.boot,
            }
        )
        if decision.changes and not held:
            self._note(f"{_changes(decision)}: {decision.reason}")
        elif _counts(before) != _counts(self._size) or self._now() >= self._shown_at + _SHOW_REASON_EVERY:
            self._tell_people()

    def _note(self, change: str) -> None:
        _LOG.info("pool %s: %s", self.pool, change)
        self._size = self._size.model_copy(update={"changed": change, "changes": self._size.changes + 1})
        self._tell_people()

    def _tell_people(self) -> None:
        self._shown_at = self._now()
        self._changed()


def _counts(size: PoolSize) -> tuple[int, int, int, int]:
    return size.workers, size.serving, size.starting, size.draining


def _changes(decision: Decision) -> str:
    parts = (("take back", decision.resume), ("start", decision.start), ("drain", decision.drain))
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)
