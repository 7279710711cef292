"""Decide whether a starting deployment can still become ready, and give the reason if not. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.state import ProcessState


@dataclass(frozen=True)
class Limits:
    """When supervision gives up, and how long it waits for an end.

    Attributes:
        ready_timeout: seconds that a deployment may take to become ready.
        early_ends: ends of one process, one after the other and each before it served, that end the launch.
        same_faults: canaries over one path, or tries of one adapter on one worker, that may fail in one way, one after
            the other: 45 s of pauses between them, and up to 30 s for each that waits for its deadline. Kernels that
            are compiled for the first request delay a few.
        router_steady_after: seconds after which a router process counts as serving; it listens after one.
        router_grace: seconds that the router may take to end beyond its time to drain: it writes errors and closes
            connections.
        worker_grace: seconds that a worker may take to end after SIGTERM.
    """

    ready_timeout: float = 1800.0
    early_ends: int = 3
    same_faults: int = 8
    router_steady_after: float = 60.0
    router_grace: float = 5.0
    worker_grace: float = 10.0


class Supervised(Protocol):
    """The part of a supervised process that decides about a launch."""

    @property
    def state(self) -> ProcessState: ...  # noqa: D102 - its name, log and last end

    @property
    def early_ends(self) -> int: ...  # noqa: D102 - starts in a row that ended before they served

    @property
    def refusal(self) -> str | None: ...  # noqa: D102 - why it refuses to run


def process_obstacle(processes: Iterable[Supervised], limits: Limits) -> str | None:
    """Return why a process keeps the deployment from becoming ready; None while it may still become ready."""
    for process in processes:
        state = process.state
        if process.refusal is not None:
            # the fork server refuses before a worker has a log
            log = f"; log: {state.log}" if state.log.exists() else ""
            return f"`{state.name}` refuses to run: {process.refusal}{log}"
        if process.early_ends >= limits.early_ends:
            return (
                f"`{state.name}` ended {process.early_ends} times before it was ready ({state.detail}); the end of "
                f"{state.log}:\n{state.log_end}"
            )
    return None


def router_obstacle(report: TasksReport, transfer: KvTransfer, logs: Path, limits: Limits) -> str | None:
    """Return why the router's report rules out that the deployment becomes ready; None while it does not.

    Args:
        report: the router's last report.
        transfer: how KV goes from prefill to decode workers.
        logs: directory of the logs.
        limits: how many canaries and tries may fail.
    """
    if report.refused:
        return "the router refuses " + "; ".join(f"`{name}`: {why}" for name, why in report.refused)
    if refused := [path for path in report.unproven_paths if path.refused]:
        return f"the router refuses to pair two workers: {refused[0].why}"
    adapters = report.unproven_adapters
    if refused_adapters := [one for one in adapters if one.refused]:
        one = refused_adapters[0]
        return f"`{one.worker}` cannot serve the adapter `{one.adapter}`: {one.why}"
    if failed := [one for one in adapters if one.times >= limits.same_faults]:
        one = failed[0]
        return (
            f"the adapter `{one.adapter}` failed {one.times} times in a row on `{one.worker}`: {one.why}; logs: {logs}"
        )
    stuck = [path for path in report.unproven_paths if path.times >= limits.same_faults]
    if stuck:
        path = stuck[0]
        return (
            f"{path.times} canaries in a row failed from `{path.prefill}` to `{path.decode}`: {path.why}; KV goes by "
            f"`{transfer.backend}` ({transfer.reason}), `disaggregation_transfer_backend` chooses another; logs: {logs}"
        )
    return None


def timeout_obstacle(seconds: float, report: TasksReport | None, logs: Path, limits: Limits) -> str | None:
    """Return what is missing once a deployment has taken too long to become ready; None before.

    Args:
        seconds: the time since the launch.
        report: the router's last report; None where the router does not answer.
        logs: directory of the logs.
        limits: how long the deployment may take.
    """
    if seconds <= limits.ready_timeout:
        return None
    missing = "; ".join(report.missing) if report is not None else "the router does not answer"
    return f"not ready after {limits.ready_timeout:g} s: {missing}; logs: {logs}"
