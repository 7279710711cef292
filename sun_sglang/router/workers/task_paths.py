"""What a set of tasks uses: the path of each task, the pairs of pools, and the weights for each prefill pool. No I/O.

Each task of the fleet is one object as long as its settings stay (`keep_equal`), and so is each path here: hundreds of
tasks with weights of their own are then compared by identity at each change, and for each request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from sun_sglang.contracts.fleet_file import Fleet, FleetTask
from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.workers.worker_paths import PoolPair

Needs: TypeAlias = Mapping[TaskWeights, tuple[PoolPair, ...]]


class TaskPath(NamedTuple):
    """The part of a task that decides which pairs may serve it. Tasks with equal values use the same pairs."""

    pools: PoolPair
    weights: TaskWeights | None


class TaskUse(NamedTuple):
    """What tasks use. The object is another one if and only if the paths differ.

    Attributes:
        paths: of all tasks.
        pools: the pairs of pools, sorted. Tasks with weights of equal tuning share one.
        weights: the own weights of tasks that the workers of each prefill pool need, with the pairs of pools of these
            tasks.
    """

    paths: tuple[TaskPath, ...]
    pools: tuple[PoolPair, ...]
    weights: Mapping[str, Needs]


class TaskPaths:
    """The path of each task, as one object for equal paths."""

    def __init__(self) -> None:
        # by the id of the task, which the tuple keeps alive
        self._known: dict[int, tuple[FleetTask, TaskPath]] = {}
        self._equal: dict[TaskPath, TaskPath] = {}
        self._use = TaskUse((), (), {})

    def path(self, task: FleetTask) -> TaskPath:
        """Return the pools, the rules and the own weights of a task."""
        found = self._known.get(id(task))
        if found is None:
            path = TaskPath(PoolPair.of(task), task.weights)
            found = self._known[id(task)] = task, self._equal.setdefault(path, path)
        return found[1]

    def use(self, tasks: Iterable[FleetTask]) -> TaskUse:
        """Return what tasks use, and forget all other tasks.

        Args:
            tasks: those whose weights go first come first.
        """
        tasks = tuple(tasks)
        paths = tuple({id(path): path for path in map(self.path, tasks)}.values())
        before = self._use.paths
        # both are alive, so equal ids are equal objects
        if len(paths) != len(before) or any(one is not other for one, other in zip(paths, before, strict=True)):
            self._use = _use(paths)
        if len(self._known) > 2 * len(tasks):
            self._known = {id(task): (task, self.path(task)) for task in tasks}
            self._equal = {path: path for path in paths}
        return self._use


def _use(paths: tuple[TaskPath, ...]) -> TaskUse:
    needed: dict[str, dict[TaskWeights, list[PoolPair]]] = {}
    for path in paths:
        if path.weights is not None:
            needed.setdefault(path.pools.prefill, {}).setdefault(path.weights, []).append(path.pools)
    return TaskUse(
        paths=paths,
        pools=tuple(sorted({path.pools for path in paths}, key=PoolPair.sort_key)),
        weights={pool: {own: tuple(pairs) for own, pairs in of.items()} for pool, of in needed.items()},
    )


def keep_equal(fleet: Fleet, before: Fleet) -> Fleet:
    """Return a fleet in which each task that equals the earlier one of its name is the same object."""
    tasks = {}
    for name, task in fleet.tasks.items():
        old = before.tasks.get(name)
        tasks[name] = old if old is not None and (old is task or old == task) else task
    return fleet.model_copy(update={"tasks": tasks})
