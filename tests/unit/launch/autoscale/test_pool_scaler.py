"""A scaler of one pool against a fake launcher and a fake router, report by report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from sun_sglang.contracts.tasks_report import (
    DecodeStepsReport,
    OfferedReport,
    PoolReport,
    TaskReport,
    TasksReport,
    WorkerReport,
)
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.autoscale.pool_scaler import PoolScaler
from sun_sglang.launch.planning.plan import PoolScaling, WorkerPlan
from sun_sglang.launch.state import Phase, PoolSize, ProcessState
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.topology import Autoscale, Slo
from tests.support.workers import decode_worker

# at an SLO of 20 ms one worker carries 5,000 context tokens a second
COSTS = CostModel(decode_step=0.01, decode_per_context_token=1e-4)
ONE_WORKER = 5000.0


def plan(index: int, standby: bool) -> WorkerPlan:
    return decode_worker(Path()).model_copy(update={"name": f"base-{index}", "standby": standby})


class Deployment:
    """A launcher and a router with the pool `base`; the test makes reports and time pass."""

    def __init__(self, first: int = 1, most: int = 4, **settings: Any) -> None:
        self.now = 0.0
        self.offered: float | None = 0.0
        self.processes: dict[str, ProcessState] = {}
        self.workers: dict[str, WorkerReport] = {}
        self.calls: list[str] = []
        self.refuses = ""
        self.shows_late = False
        self.sizes: list[int] = []
        for index in range(first):
            self.add(f"base-{index}")
        given = {
            "pool": "base",
            "min": 1,
            "max": most,
            "slo": Slo(tpot=0.02),
            "load": 1.0,
            "share": 0.5,
            "window": 9.0,
            "hold": 0.0,
        }
        scaling = PoolScaling(settings=Autoscale(**(given | settings)), costs=COSTS)
        plans = [plan(index, standby=index >= first) for index in range(most)]
        self.scaler = PoolScaler(scaling, plans, self, lambda: None, lambda: self.now)

    def add(self, name: str, state: str = "ready") -> None:
        self.processes[name] = ProcessState(
            name=name, pool="base", role="decode", phase=Phase.RUNNING, pid=1, url="u", log=Path("log"), restarts=0
        )
        self.workers[name] = WorkerReport(name=name, url="u", state=state, reason="", incarnation="a", in_flight=0)

    def set(self, name: str, **changes: Any) -> None:
        self.workers[name] = self.workers[name].model_copy(update=changes)

    async def run(self, seconds: int, workers: float, *, held: bool = False) -> PoolSize:
        """Offer the work of so many workers, and let the scaler observe each second."""
        for _ in range(seconds):
            self.now += 1
            if self.offered is not None:
                self.offered += workers * ONE_WORKER
            self.scaler.observe(self.report(), held=held)
            # what was begun runs to its end, since nothing here waits
            for _ in range(10):
                await asyncio.sleep(0)
        return self.scaler.size

    def report(self) -> TasksReport:
        side = PoolReport(pool="base", model="m", workers=tuple(self.workers.values()))
        task = TaskReport(
            ready=True,
            prefill=PoolReport(pool="p", model="m", workers=()),
            decode=side,
            paths=(),
            unproven_paths=(),
            queued=0,
            in_flight=0,
            namespace=None,
        )
        work = self.offered
        offered = None if work is None else {"base": OfferedReport(answers=work, tokens=work, context_tokens=work)}
        return TasksReport(ready=True, draining=False, tasks={"t": task}, offered=offered)

    # --- the launcher's workers -----------------------------------------------------------------------------------

    def states(self) -> dict[str, ProcessState]:
        return self.processes

    async def start_worker(self, worker: WorkerPlan) -> None:
        self.calls.append(f"start {worker.name}")
        if self.refuses:
            raise LaunchError(self.refuses)
        self.add(worker.name, "absent")

    async def stop_worker(self, name: str) -> None:
        self.calls.append(f"stop {name}")
        del self.processes[name], self.workers[name]

    def connect(self) -> Any:
        return self

    # --- the router's client --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def change_worker(self, name: str, action: str, *, move: bool = False) -> None:
        self.calls.append(f"{action} {name}{' and move' if move else ''}")
        if self.refuses:
            raise UserError(self.refuses)
        if not self.shows_late:
            self.set(name, state="draining" if action == "drain" else "ready")

    async def set_pool_size(self, name: str, workers: int) -> None:
        self.sizes.append(workers)


async def test_worker_is_started_once_and_serves_after_its_boot() -> None:
    base = Deployment()
    size = await base.run(12, 1.5)
    assert base.calls == ["start base-1"]
    assert (size.workers, size.serving, size.starting) == (2, 1, 1)
    assert "start base-1: offered" in size.changed
    base.set("base-1", state="ready")
    size = await base.run(2, 1.5)
    assert (base.calls, size.serving, size.starting) == (["start base-1"], 2, 0)
    assert size.boot_seconds > 1
    assert base.sizes == [1, 2]


@pytest.mark.invariant("I26")
async def test_worker_drains_moves_its_answers_and_stops_once_it_is_empty_in_every_process() -> None:
    base = Deployment(first=2)
    base.set("base-1", in_flight=3, tokens=5)
    base.set("base-0", in_flight=3, tokens=9)
    await base.run(12, 0.5)
    assert base.calls == ["drain base-1 and move"]
    base.set("base-1", in_flight=0, agreed=False)
    size = await base.run(2, 0.5)
    assert base.calls == ["drain base-1 and move"]
    assert size.draining == 1
    base.set("base-1", agreed=True)
    size = await base.run(3, 0.5)
    assert base.calls == ["drain base-1 and move", "stop base-1"]
    assert (size.workers, size.draining, list(base.workers)) == (1, 0, ["base-0"])


async def test_draining_worker_is_taken_back_before_another_one_boots() -> None:
    base = Deployment(first=2)
    base.set("base-1", in_flight=3)
    await base.run(12, 0.5)
    base.shows_late = True
    while len(base.calls) < 2:
        await base.run(1, 2.0)
    # the report still shows it as draining, which is no reason to boot another one
    await base.run(5, 2.0)
    base.set("base-1", state="ready")
    await base.run(5, 2.0)
    assert base.calls == ["drain base-1 and move", "resume base-1"]


async def test_nothing_changes_while_a_restart_is_under_way() -> None:
    base = Deployment()
    size = await base.run(12, 2.5, held=True)
    assert not base.calls
    assert size.reason.endswith("a restart is under way")
    await base.run(1, 2.5)
    assert base.calls == ["start base-1", "start base-2"]


async def test_worker_that_somebody_drains_is_left_alone_and_replaced() -> None:
    base = Deployment()
    base.set("base-0", state="draining")
    await base.run(12, 0.5)
    assert base.calls == ["start base-1"]
    assert "base-0" in base.workers


async def test_refused_start_is_shown_and_tried_again_after_a_pause() -> None:
    base = Deployment(first=1, most=2)
    base.refuses = "no machine has room"
    size = await base.run(12, 1.5)
    assert base.calls == ["start base-1"]
    assert size.changed == "base-1 cannot be started: no machine has room"
    assert (size.serving, size.starting) == (1, 0)
    base.refuses = ""
    await base.run(30, 1.5)
    assert base.calls == ["start base-1", "start base-1"]


@pytest.mark.parametrize("resumes", [False, True])
async def test_refused_change_is_shown_and_decided_again(resumes: bool) -> None:
    base = Deployment(first=2)
    base.set("base-1", in_flight=3)
    if resumes:
        await base.run(12, 0.5)
    base.refuses = "no"
    size = await base.run(12, 2.0 if resumes else 0.5)
    assert size.changed == f"base-1 cannot be {'taken back' if resumes else 'drained'}: no"
    base.refuses = ""
    await base.run(2, 2.0 if resumes else 0.5)
    assert base.calls[-1] == ("resume base-1" if resumes else "drain base-1 and move")


async def test_silent_process_of_the_router_is_no_fall_of_the_demand() -> None:
    base = Deployment()
    await base.run(12, 1.5)
    known, base.offered = base.offered, None
    size = await base.run(2, 0)
    base.offered = known
    assert size.workers == 2


async def test_costs_follow_the_steps_that_workers_measure() -> None:
    base = Deployment()
    steps = DecodeStepsReport(steps=0, seconds=0, requests=0, context=0, kv_tokens=1 << 20)
    base.set("base-0", steps=steps)
    for _ in range(40):
        now = base.workers["base-0"].steps
        assert now is not None
        # 100 steps with 50 tokens of context take 20 ms each; the cost model tells 15 ms
        more = {"steps": now.steps + 100, "seconds": now.seconds + 2, "context": now.context + 5000}
        base.set("base-0", steps=now.model_copy(update=more))
        size = await base.run(1, 0.7)
    # 0.7 workers at the cost model's price are 1.4 at 4/3 of it: 0.7 * 4/3 / (1 - 13.3/20) * (1 - 10/20)
    assert size.workers == 2


async def test_kv_memory_that_workers_report_bounds_the_size() -> None:
    base = Deployment()
    base.set("base-0", steps=DecodeStepsReport(steps=1, seconds=1, requests=1, context=1, kv_tokens=40))
    size = await base.run(12, 0.9)
    assert size.workers == 3
    assert "for KV memory" in size.reason


async def booting(**settings: Any) -> Deployment:
    """Return a deployment with one worker that serves, and one whose boot is under way."""
    base = Deployment(**settings)
    while not base.calls:
        await base.run(1, 1.5)
    await base.run(2, 1.5)
    assert base.scaler.size.starting == 1
    return base


async def test_worker_that_refuses_to_run_is_given_up_and_another_one_is_started_after_a_pause() -> None:
    base = await booting()
    base.processes["base-1"] = base.processes["base-1"].model_copy(
        update={"phase": Phase.FAILED, "detail": "a hook is missing"}
    )
    size = await base.run(1, 1.5)
    assert "base-1 does not start: a hook is missing; its log is log" in size.changed
    assert base.calls == ["start base-1", "stop base-1"]
    await base.run(35, 1.5)
    assert base.calls[2:] == ["start base-1"]


async def test_worker_that_ends_again_and_again_before_it_serves_is_given_up() -> None:
    base = await booting()
    base.processes["base-1"] = base.processes["base-1"].model_copy(update={"restarts": 3, "detail": "exit 1"})
    await base.run(1, 1.5)
    assert base.calls == ["start base-1", "stop base-1"]


async def test_worker_that_the_router_refuses_is_given_up() -> None:
    base = await booting()
    base.set("base-1", state="refused", reason="another architecture")
    size = await base.run(1, 1.5)
    assert size.changed == "the router refuses base-1: another architecture"
    assert base.calls == ["start base-1", "stop base-1"]


@pytest.mark.parametrize("removed", [False, True])
async def test_booting_worker_that_somebody_drains_or_removes_counts_as_missing(removed: bool) -> None:
    base = await booting()
    if removed:
        del base.workers["base-1"]
    else:
        base.set("base-1", state="draining")
    await base.run(12, 1.5)
    assert base.calls == ["start base-1", "start base-2"]


async def test_draining_worker_that_somebody_resumes_serves_and_is_drained_again() -> None:
    base = Deployment(first=2)
    base.set("base-1", in_flight=3)
    await base.run(12, 0.5)
    base.set("base-1", state="ready")
    await base.run(12, 0.5)
    assert base.calls == ["drain base-1 and move", "drain base-1 and move"]


async def test_defect_of_a_change_is_shown() -> None:
    base = Deployment(first=2)

    async def broken(name: str, action: str, *, move: bool = False) -> None:
        raise KeyError(name)

    base.change_worker = broken  # type: ignore[method-assign]  # a defect for the test
    size = await base.run(12, 0.5)
    assert size.changed.startswith("a change failed by a defect of the launcher (KeyError('base-1'))")
