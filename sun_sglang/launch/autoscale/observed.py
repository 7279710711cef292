"""What the policy sees of a pool: the states of its workers, and the steps that they measured. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from sun_sglang.autoscaling.policy import Member, MemberState
from sun_sglang.autoscaling.step_cost import MeasuredSteps
from sun_sglang.contracts.tasks_report import DecodeStepsReport, WorkerReport
from sun_sglang.launch.state import Phase, ProcessState

# fewer steps than this are too few for a mean
_LEAST_STEPS = 16


def members_of(
    names: Iterable[str],
    processes: Mapping[str, ProcessState],
    reports: Mapping[str, WorkerReport],
    *,
    starting: Collection[str],
    draining: Collection[str],
    leaving: Collection[str],
) -> list[Member]:
    """Return the workers of a pool as the policy sees them.

    Args:
        names: every worker that the pool may have, in the order in which they are started.
        processes: the workers that the launcher runs, by name.
        reports: the workers of the router, by name.
        starting: workers that the policy started and whose start is under way.
        draining: workers that the policy drains.
        leaving: workers that the policy has drained and whose processes end.
    """
    return [_member(name, processes.get(name), reports.get(name), starting, draining, leaving) for name in names]


def _member(
    name: str,
    process: ProcessState | None,
    report: WorkerReport | None,
    starting: Collection[str],
    draining: Collection[str],
    leaving: Collection[str],
) -> Member:
    tokens = report.tokens if report is not None else 0
    if name in leaving:
        return Member(name, MemberState.AWAY, tokens)
    if name in draining:
        return Member(name, MemberState.DRAINING, tokens)
    if name in starting:
        return Member(name, MemberState.STARTING, tokens)
    if process is None:
        return Member(name, MemberState.STOPPED)
    refuses = process.phase == Phase.FAILED or (report is not None and report.state == "refused")
    if report is None or refuses or report.state == "draining":
        return Member(name, MemberState.AWAY, tokens)
    return Member(name, MemberState.SERVING if report.state == "ready" else MemberState.STARTING, tokens)


class StepReader:
    """The steps that workers measured between two reports of the router."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, DecodeStepsReport]] = {}

    def read(self, workers: Iterable[WorkerReport]) -> Iterator[MeasuredSteps]:
        """Yield the new steps of each worker, once there are enough for a mean."""
        for worker in workers:
            if worker.steps is None or worker.incarnation is None:
                continue
            now = worker.steps
            incarnation, last = self._last.get(worker.name, ("", now))
            steps = now.steps - last.steps
            if incarnation != worker.incarnation or steps < 0:
                self._last[worker.name] = (worker.incarnation, now)
            elif steps >= _LEAST_STEPS:
                self._last[worker.name] = (worker.incarnation, now)
                yield MeasuredSteps(
                    seconds=(now.seconds - last.seconds) / steps,
                    requests=(now.requests - last.requests) / steps,
                    context=(now.context - last.context) / steps,
                )
