"""Try a task before it is announced: its paths, and its weights on every prefill worker of its pool, all or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.contracts.module import ModuleRef, TaskWeights
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.health.task_weights.weights_prover import WeightsProver
from sun_sglang.router.task_weights.kind import kind_of
from sun_sglang.router.task_weights.limits import weights_fault
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import UnusablePath


class _Limits(NamedTuple):
    """Seconds for a trial, and for the unload of the weights after one that failed."""

    trial: float
    change: float


class TaskTrials:
    """Tries tasks on the workers that take requests meanwhile.

    Args:
        registry: workers, paths and proofs.
        path_prover: proves paths.
        weights_prover: loads and proves the weights of tasks.
        clock: for the limit.
        deadlines: the limits for a trial and for an unload, by the kind of weights.
    """

    def __init__(
        self,
        registry: Registry,
        path_prover: PathProver,
        weights_prover: WeightsProver,
        clock: Clock,
        deadlines: Deadlines,
    ) -> None:
        self._registry = registry
        self._path_prover = path_prover
        self._weights_prover = weights_prover
        self._clock = clock
        self._deadlines = deadlines
        self._changed = asyncio.Event()
        for listeners in (registry.on_usable, path_prover.on_failed, weights_prover.on_changed):
            listeners.append(self._wake)
        registry.on_ejected.append(lambda _: self._wake())

    @asynccontextmanager
    async def passed(self, task: FleetTask) -> AsyncIterator[None]:
        """Run the block once a task can be served, with its own weights by every admitted worker of its prefill pool.

        The weights stay loaded if the block puts the task into the fleet. After an error they are unloaded where no
        other task needs them, before the error is raised.

        Raises:
            ApiError: 409, a worker cannot serve the task, with the worker and the reason; 504, it takes too long.
        """
        self._require_possible(task)
        if task.weights is not None:
            self._weights_prover.retry(task.weights)
        self._registry.begin_trial(task)
        try:
            try:
                await self._wait(task)
                yield
            finally:
                self._registry.end_trial(task)
        except ApiError:
            await self._withdraw(task)
            raise
        except BaseException:
            # no time to wait: the client has left
            self._unload(task)
            raise

    def _require_possible(self, task: FleetTask) -> None:
        """Refuse a task, before any work, that the cards of the workers rule out."""
        prefills, decodes = self._admitted(task.prefill), self._admitted(task.decode)
        for pool, workers in ((task.prefill, prefills), (task.decode, decodes)):
            if not workers:
                raise _refused(f"no worker of pool `{pool}` is ready to try the task; `sun status` shows the reasons")
        for worker in prefills if task.weights is not None else ():
            assert task.weights is not None
            assert worker.card is not None, "an admitted worker has a card"
            if fault := weights_fault(worker.card, task.weights):
                raise _refused(f"worker `{worker.name}` cannot serve the {kind_of(task.weights)}: {fault}")

    async def _wait(self, task: FleetTask) -> None:
        seconds = self._limits(task.weights).trial
        try:
            async with self._clock.timeout(seconds):
                while missing := self._missing(task):
                    await self._changed.wait()
        except TimeoutError as e:
            raise ApiError(
                504, f"the task cannot be served after {seconds:g} s: {missing}", code="trial_timeout"
            ) from e

    def _missing(self, task: FleetTask) -> str:
        """Return what a task still lacks; empty if it can be served.

        Raises:
            ApiError: it cannot be served.
        """
        self._require_possible(task)
        paths = self._registry.paths(task)
        if task.weights is None:
            return "" if paths.usable else self._missing_path(paths.unusable)
        missing = ""
        # one that refuses ends the trial, although others have not answered yet
        for obstacle in self._registry.weights.obstacles(task.prefill, task.weights):
            worker = self._registry.workers[obstacle.worker]
            why, _ = self._weights_prover.last_fault(worker, task.weights)
            if why:
                raise _refused(f"worker `{worker.name}` did not take the {kind_of(task.weights)}: {why}")
            own = [one for one in paths.unusable if one.path.prefill == worker.name]
            if own and not self._registry.weights.pairs(worker, task.weights):
                missing = self._missing_path(own)
            else:
                missing = f"the {kind_of(task.weights)} is not proven on worker `{worker.name}` yet"
        return missing or ("" if paths.usable else self._missing_path(paths.unusable))

    def _missing_path(self, unusable: Iterable[UnusablePath]) -> str:
        """Return that a canary is missing.

        Raises:
            ApiError: every path is refused, or its canary failed.
        """
        reasons: list[str] = []
        for path, refusal in unusable:
            why = refusal or self._path_prover.last_fault(path)[0]
            if not why:
                return f"no canary has passed from `{path.prefill}` to `{path.decode}` yet"
            reasons.append(f"no path from `{path.prefill}` to `{path.decode}`: {why}")
        if reasons:
            raise _refused(reasons[0])
        return "no worker takes requests now"

    async def _withdraw(self, task: FleetTask) -> None:
        """Unload a task's weights where no other task needs them, and wait until that is done."""
        self._unload(task)
        weights = task.weights
        if weights is None:
            return
        with suppress(TimeoutError):
            # the prover goes on after that
            async with self._clock.timeout(self._limits(weights).change):
                while self._weights_prover.is_surplus(weights, task.prefill):
                    await self._changed.wait()

    def _unload(self, task: FleetTask) -> None:
        if task.weights is not None:
            self._weights_prover.unload_now(task.weights)

    def _admitted(self, pool: str) -> list[Worker]:
        return [worker for worker in self._registry.members(pool) if worker.admitted and worker.takes_requests]

    def _limits(self, weights: TaskWeights | None) -> _Limits:
        deadlines = self._deadlines
        if isinstance(weights, ModuleRef):
            return _Limits(deadlines.module_trial, deadlines.module_change)
        return _Limits(deadlines.task_trial, deadlines.adapter_change)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _refused(why: str) -> ApiError:
    return ApiError(409, why, code="task_refused")
