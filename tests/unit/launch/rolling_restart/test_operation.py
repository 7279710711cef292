"""The steps of a restart, and its end when one of them fails."""

from __future__ import annotations

from typing import cast

import pytest

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.rolling_restart import operation
from sun_sglang.launch.rolling_restart.messages import Event, Outcome, Progress, RestartRequest, Step
from sun_sglang.launch.rolling_restart.operation import RollingRestart
from sun_sglang.launch.router_client import RouterClient
from tests.unit.launch.rolling_restart.fake_deployment import FakeDeployment, FakeProcess

NEVER_S = 600.0


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll without a pause."""
    monkeypatch.setattr(operation, "_POLL", 0.0)


class Run:
    """A restart of the decode pool of a deployment, and what it emits."""

    def __init__(self, deployment: FakeDeployment, timeout: float = NEVER_S, allow_gap: bool = False) -> None:
        self.events: list[Event] = []
        request = RestartRequest(name="d", timeout=timeout, allow_gap=allow_gap)
        client = cast("RouterClient", deployment)
        self.restart = RollingRestart(request, deployment.launched, client, self.events.append)

    async def outcome(self) -> Outcome:
        await self.restart.prepare()
        return await self.restart.run()

    @property
    def steps(self) -> list[tuple[str, Step]]:
        return [(event.worker, event.step) for event in self.events if isinstance(event, Progress)]


async def test_workers_are_restarted_one_after_the_other_each_with_all_steps() -> None:
    deployment = FakeDeployment("d0", "d1")
    run = Run(deployment)
    outcome = await run.outcome()
    assert deployment.calls == [
        f"{action} {name}" for name in ("d0", "d1") for action in ("drain with a move", "restart", "resume")
    ]
    assert run.steps == [(name, step) for name in ("d0", "d1") for step in Step]
    assert [(one.worker, set(one.seconds)) for one in outcome.restarted] == [("d0", set(Step)), ("d1", set(Step))]
    assert (outcome.failed, outcome.left, outcome.cancelled) == (None, (), False)


async def test_worker_is_stopped_only_without_requests_and_once_every_router_process_drains_it() -> None:
    deployment = FakeDeployment("d0", "d1")
    deployment.in_flight["d0"] = 3
    shown: list[int] = []

    def progress() -> None:
        if "d0" in deployment.drained:
            shown.append(deployment.in_flight["d0"])
            if deployment.in_flight["d0"]:
                deployment.in_flight["d0"] -= 1
                deployment.disagreed = {"d0"}
            elif len(shown) > 5:
                deployment.disagreed = set()

    def stopped(process: FakeProcess) -> None:
        assert "d0" in deployment.drained or process.state.name != "d0"
        assert not deployment.in_flight["d0"]
        assert not deployment.disagreed
        deployment.come_back(process)

    deployment.on_report, deployment.on_restart = progress, stopped
    run = Run(deployment)
    await run.outcome()
    seen = [event.in_flight for event in run.events if isinstance(event, Progress) and event.worker == "d0"]
    assert seen == [0, 2, 1, 0, 0, 0, 0]


async def test_worker_is_resumed_only_once_every_router_process_has_noticed_the_end_of_its_last_start() -> None:
    """A process that still has the old card, with its proofs, would send requests to a port that is closed."""
    deployment = FakeDeployment("d0", "d1")
    stale = 3

    def progress() -> None:
        nonlocal stale
        if deployment.processes["d0"].state.restarts and stale:
            stale -= 1
            if not stale:
                deployment.incarnations["d0"] = "d0 1"

    def restart(process: FakeProcess) -> None:
        deployment.come_back(process)
        if process.state.name == "d0":
            deployment.incarnations["d0"] = "d0 0"

    def change(action: str) -> None:
        assert action == "drain" or not stale

    deployment.on_report, deployment.on_restart, deployment.on_change = progress, restart, change
    assert len((await Run(deployment).outcome()).restarted) == 2


async def test_worker_that_does_not_get_empty_in_time_serves_on() -> None:
    deployment = FakeDeployment("d0", "d1")
    deployment.in_flight["d0"] = 2
    outcome = await Run(deployment, timeout=0).outcome()
    assert deployment.calls == ["drain with a move d0", "resume d0"]
    assert outcome.failed is not None
    assert (outcome.failed.worker, outcome.failed.step, outcome.left) == ("d0", Step.DRAIN, ("d1",))
    assert outcome.failed.reason == (
        "after 0 s: it still has 2 requests in flight; log: /logs/d0.log\n"
        "`d0` was not restarted, and takes requests as before"
    )


async def test_cancel_during_a_drain_resumes_the_worker_and_restarts_none() -> None:
    deployment = FakeDeployment("d0", "d1")
    deployment.in_flight["d0"] = 2
    run = Run(deployment)
    deployment.on_report = lambda: run.restart.cancel() if deployment.drained else None
    outcome = await run.outcome()
    assert deployment.calls == ["drain with a move d0", "resume d0"]
    assert (outcome.restarted, outcome.failed, outcome.left, outcome.cancelled) == ((), None, ("d0", "d1"), True)


async def test_cancel_after_a_drain_brings_the_worker_back_first() -> None:
    deployment = FakeDeployment("d0", "d1")
    run = Run(deployment)

    def restart(process: FakeProcess) -> None:
        run.restart.cancel()
        deployment.come_back(process)

    deployment.on_restart = restart
    outcome = await run.outcome()
    assert deployment.calls == ["drain with a move d0", "restart d0", "resume d0"]
    assert [one.worker for one in outcome.restarted] == ["d0"]
    assert (outcome.left, outcome.cancelled) == (("d1",), True)


@pytest.mark.parametrize("refuses", [False, True])
async def test_worker_that_does_not_come_back_ends_the_restart_with_its_log_and_is_resumed(refuses: bool) -> None:
    deployment = FakeDeployment("d0", "d1")

    def restart(process: FakeProcess) -> None:
        deployment.incarnations["d0"] = None
        process.refusal = "patch `x` did not take" if refuses else None
        process.early_ends = 3
        process.state = process.state.model_copy(update={"detail": "exit 1", "log_end": "out of memory"})

    deployment.on_restart = restart
    outcome = await Run(deployment).outcome()
    assert deployment.calls == ["drain with a move d0", "restart d0", "resume d0"]
    assert (outcome.restarted, outcome.left) == ((), ("d1",))
    assert outcome.failed is not None
    assert outcome.failed.step == Step.START
    if refuses:
        assert outcome.failed.reason == (
            "`d0` refuses to run: patch `x` did not take\n"
            "The launcher does not start it again by itself; `sun workers restart d0` tries again"
        )
    else:
        assert outcome.failed.reason == (
            "`d0` ended 3 times before it was ready (exit 1); the end of /logs/d0.log:\nout of memory\n"
            "The launcher keeps it running, and it takes requests once a canary has passed; "
            "`sun workers restart d0` tries again"
        )


async def test_next_start_that_the_router_refuses_ends_the_restart_at_once() -> None:
    deployment = FakeDeployment("d0", "d1")

    def restart(process: FakeProcess) -> None:
        deployment.unproven, deployment.refusal = {"d0"}, "other weights"
        deployment.come_back(process)

    deployment.on_restart = restart
    outcome = await Run(deployment).outcome()
    assert outcome.failed is not None
    assert outcome.failed.reason.startswith("the router refuses to pair two workers: other weights\nThe launcher keeps")


async def test_restart_stops_before_a_worker_that_would_leave_a_gap() -> None:
    deployment = FakeDeployment("d0", "d1")
    run = Run(deployment)

    def leave() -> None:
        if run.restart.present.number == 2:
            deployment.incarnations["d0"] = None

    deployment.on_report = leave
    outcome = await run.outcome()
    assert [one.worker for one in outcome.restarted] == ["d0"]
    assert outcome.failed is not None
    assert outcome.failed.worker == "d1"
    assert "no other worker of `d` is ready now (`d0` is absent)" in outcome.failed.reason
    assert "restart d1" not in deployment.calls
    assert deployment.drained == set()


async def test_pool_of_one_is_refused_without_a_change_unless_a_gap_is_allowed() -> None:
    deployment = FakeDeployment("d0")
    with pytest.raises(UserError, match=r"`d0` is the only worker of `d`, .* `--allow-gap` restarts it all the same"):
        await Run(deployment).outcome()
    assert deployment.calls == []
    assert len((await Run(deployment, allow_gap=True).outcome()).restarted) == 1


async def test_worker_that_was_drained_before_stays_drained() -> None:
    deployment = FakeDeployment("d0", "d1")
    deployment.drained = {"d0"}
    outcome = await Run(deployment).outcome()
    assert deployment.calls[0] == "restart d0"
    assert [one.drained for one in outcome.restarted] == [True]
    # the only other worker gets no requests, so the second one may not be taken away
    assert outcome.failed is not None
    assert "`d0` is draining" in outcome.failed.reason


async def test_worker_that_cannot_be_resumed_is_reported_as_drained() -> None:
    deployment = FakeDeployment("d0", "d1")

    def change(action: str) -> None:
        if action == "resume":
            raise LaunchError("the router does not answer")

    deployment.on_change = change
    outcome = await Run(deployment).outcome()
    assert outcome.failed is not None
    assert outcome.failed.reason == (
        "the router does not answer\n`d0` is still drained (the router does not answer); `sun workers resume d0` puts "
        "it back"
    )


async def test_worker_that_leaves_the_fleet_ends_the_restart() -> None:
    deployment = FakeDeployment("d0", "d1")

    def restart(process: FakeProcess) -> None:
        deployment.come_back(process)
        deployment.leave("d0")

    deployment.on_restart = restart
    outcome = await Run(deployment).outcome()
    assert outcome.failed is not None
    assert outcome.failed.reason == "`d0` was removed from the router's fleet meanwhile"


async def test_pool_that_no_task_uses_is_refused() -> None:
    deployment = FakeDeployment("d0", "e0")
    deployment.pools["e0"] = "e"
    request = RestartRequest(name="e0", timeout=1)
    restart = RollingRestart(request, deployment.launched, cast("RouterClient", deployment), lambda _: None)
    with pytest.raises(UserError, match="no task uses the pool `e`, so no canary can prove its workers"):
        await restart.prepare()
