"""What the router's report says about a worker that is restarted."""

from __future__ import annotations

import pytest

from sun_sglang.contracts.tasks_report import ProvenPath, TasksReport, UnprovenAdapter, UnprovenModule, WorkerReport
from sun_sglang.launch.rolling_restart.service import (
    about,
    before_restart,
    gap,
    lacking,
    pool_of,
    undrained,
    unnoticed,
    unregistered,
    unserving,
)
from tests.unit.launch.rolling_restart.fake_deployment import FakeDeployment


def gap_of(report: TasksReport, worker: str) -> str:
    pool = pool_of(report, worker[0])
    assert pool is not None
    return gap(report, pool, worker)


def changed(report: TasksReport, **changes: object) -> TasksReport:
    """Return a report with other values of its task."""
    task = report.tasks["math"].model_copy(update=changes)
    return report.model_copy(update={"tasks": {"math": task}})


def worker(**changes: object) -> WorkerReport:
    found = WorkerReport(name="d0", url="http://d0", state="ready", reason="", incarnation="d0 0", in_flight=0)
    return found.model_copy(update=changes)


def test_gap_is_a_pool_without_another_worker_that_every_router_process_finds_ready() -> None:
    deployment = FakeDeployment("d0", "d1")
    assert gap_of(deployment.report(), "d0") == ""
    assert gap_of(deployment.report(), "p0") == "`p0` is the only worker of `p`"
    deployment.disagreed = {"d1"}
    assert gap_of(deployment.report(), "d0") == (
        "no other worker of `d` is ready now (`d1` is ready, not in every process of the router)"
    )
    deployment.disagreed, deployment.drained = set(), {"d1"}
    assert gap_of(deployment.report(), "d0") == "no other worker of `d` is ready now (`d1` is draining)"


def test_gap_is_a_task_that_only_this_worker_can_serve() -> None:
    """The other one is ready for other tasks, and has no proven path or weights for this one."""
    report = FakeDeployment("d0", "d1").report()
    alone = changed(report, paths=(ProvenPath(prefill="p0", decode="d0"),))
    assert gap_of(alone, "d0") == "`d0` alone is proven for `math` now"
    assert gap_of(alone, "d1") == ""
    # a task that is not served has nothing to lose
    assert gap_of(changed(alone, ready=False), "d0") == ""


def test_path_that_another_router_process_has_not_proven_does_not_cover_a_task() -> None:
    deployment = FakeDeployment("d0", "d1")
    proven = deployment.report().tasks["math"].paths
    deployment.unproven = {"d1"}
    unproven = deployment.report().tasks["math"].unproven_paths
    deployment.unproven = set()
    report = changed(deployment.report(), paths=proven, unproven_paths=unproven)
    assert gap_of(report, "d0") == "`d0` alone is proven for `math` now"


@pytest.mark.parametrize("state", ["draining", "absent", "refused"])
def test_worker_is_drained_once_all_router_processes_drain_it_and_its_requests_have_ended(state: str) -> None:
    assert undrained(worker(state=state)) == ""
    assert undrained(worker(state=state, in_flight=2)) == "it still has 2 requests in flight"
    assert undrained(worker(state=state, agreed=False)) == undrained(worker())
    assert undrained(worker()) == "not every process of the router has stopped sending it requests"


def test_end_of_a_start_is_noticed_once_no_router_process_has_its_card() -> None:
    before = before_restart(FakeDeployment("d0").report(), "d0")
    assert unnoticed(worker(), before)
    assert unnoticed(worker(incarnation="d0 1", agreed=False), before)
    assert unnoticed(worker(incarnation=None), before) == unnoticed(worker(incarnation="d0 1"), before) == ""


def test_start_is_registered_once_every_router_process_has_its_card() -> None:
    before = before_restart(FakeDeployment("d0").report(), "d0")
    assert "(refused to connect)" in unregistered(worker(incarnation=None, reason="refused to connect"), before)
    assert "(ready)" in unregistered(worker(), before)
    assert "not every process" in unregistered(worker(incarnation="d0 1", agreed=False), before)
    assert unregistered(worker(incarnation="d0 1"), before) == ""


def test_worker_serves_again_with_everything_that_it_had_proven_before() -> None:
    report = FakeDeployment("d0").report()
    adapter = UnprovenAdapter(worker="p0", adapter="sun-1", why="", times=0, refused=False)
    module = UnprovenModule(worker="p0", module="m1", why="", times=0, refused=False)
    lost = changed(report, unproven_adapters=(adapter,), unproven_modules=(module,))
    assert unserving(lost, "p0", before_restart(report, "p0")) == "not proven: adapter sun-1, module m1"
    assert unserving(lost, "p0", before_restart(lost, "p0")) == ""
    assert unserving(lost, "d0", before_restart(report, "d0")) == ""


def test_report_about_a_worker_leaves_out_others_and_what_it_lacked_before() -> None:
    deployment = FakeDeployment("d0", "d1")
    deployment.unproven = {"d0", "d1"}
    own = about(deployment.report(), "d0", frozenset())
    assert [path.decode for path in own.unproven_paths] == ["d0"]
    assert set(own.workers) == {"d0"}
    known = lacking(deployment.report(), "d0")
    assert known == {("path", "p0", "d0")}
    assert about(deployment.report(), "d0", known).unproven_paths == []
