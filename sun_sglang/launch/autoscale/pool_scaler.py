"""Size one pool: decide at each report of the router, and start, drain and stop its workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from sun_sglang.autoscaling.demand import Demand
from sun_sglang.autoscaling.policy import Autoscaler, Decision, Member, MemberState
from sun_sglang.autoscaling.step_cost import StepCost
from sun_sglang.contracts.tasks_report import TasksReport, WorkerReport
from sun_sglang.errors import SunError
from sun_sglang.launch.autoscale.observed import StepReader, members_of
from sun_sglang.launch.autoscale.settings import bounds_of, cost_estimate
from sun_sglang.launch.autoscale.transitions import Booted, Transitions
from sun_sglang.launch.planning.plan import PoolScaling, WorkerPlan
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import PoolSize, ProcessState

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
        self._under_way = Transitions()
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
        self._note_boots(now, workers)
        members = members_of(
            self._plans,
            self._fleet.states(),
            workers,
            starting=self._under_way.starting,
            draining=self._under_way.draining,
            leaving=self._under_way.leaving,
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

    def _note_boots(self, now: float, workers: dict[str, WorkerReport]) -> None:
        for end in self._under_way.note(now, self._fleet.states(), workers):
            if isinstance(end, Booted):
                self._policy.note_boot(end.seconds)
                _LOG.info("%s serves %.1f s after the decision to start it", end.worker, end.seconds)
            else:
                self._policy.note_refused_start(now)
                self._stop(end.worker)
                self._note(end.why)

    def _current_cost(self, workers: dict[str, WorkerReport]) -> StepCost | None:
        cost = self._cost.current
        known = [worker.steps.kv_tokens for worker in workers.values() if worker.steps and worker.steps.kv_tokens]
        return cost._replace(kv_tokens=min(known)) if cost is not None and known else cost

    # --- what it changes ------------------------------------------------------------------------------------------

    def _carry_out(self, decision: Decision) -> None:
        now = self._now()
        for name in decision.resume:
            self._under_way.resume(name, now)
            self._begin(self._resume(name))
        for name in decision.start:
            self._under_way.start(name, now)
            self._begin(self._start(name))
        for name in filter(self._under_way.may_drain, decision.drain):
            self._under_way.drain(name)
            self._begin(self._drain(name))
        if decision.workers != self._told:
            self._told = decision.workers
            self._begin(self._tell(decision.workers))

    def _retire(self, workers: dict[str, WorkerReport]) -> None:
        for name in self._under_way.empty(workers):
            self._stop(name)

    def _stop(self, name: str) -> None:
        self._under_way.leave(name)
        self._begin(self._end(name))

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
            self._under_way.forget(name)
            self._note(f"{name} cannot be started: {e}")
            return
        self._under_way.note_started(name, self._now())

    async def _resume(self, name: str) -> None:
        try:
            async with self._fleet.connect() as client:
                await client.change_worker(name, "resume")
        except (SunError, OSError) as e:
            # it is still out of the rotation, so the next decision may take it back
            self._under_way.drain(name)
            self._note(f"{name} cannot be taken back: {e}")

    async def _drain(self, name: str) -> None:
        try:
            async with self._fleet.connect() as client:
                await client.change_worker(name, "drain", move=True)
        except (SunError, OSError) as e:
            self._under_way.forget(name)
            self._note(f"{name} cannot be drained: {e}")
            return
        self._under_way.note_drained(name, self._now())

    async def _end(self, name: str) -> None:
        try:
            await self._fleet.stop_worker(name)
        except (SunError, OSError) as e:
            self._under_way.forget(name)
            # the next report without a request on it stops it again
            self._under_way.drain(name)
            self._note(f"{name} cannot be stopped: {e}")
        else:
            self._under_way.forget(name)

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
