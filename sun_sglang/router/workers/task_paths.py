"""What a set of tasks uses: the paths of each task, the pairs of pools, and the adapters of each prefill pool. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.router.workers.worker_paths import PoolPair


class TaskPath(NamedTuple):
    """The part of a task that decides which pairs may serve it. Tasks with equal values use the same pairs."""

    pools: PoolPair
    adapter: AdapterRef | None

    @classmethod
    def of(cls, task: FleetTask) -> TaskPath:
        """Return the pools, the rules and the adapter of a task."""
        return cls(PoolPair.of(task), task.adapter)


Needs: TypeAlias = Mapping[AdapterRef, tuple[PoolPair, ...]]


class TaskUse(NamedTuple):
    """What tasks use.

    Attributes:
        by_task: of each task that is served.
        paths: of all tasks.
        pools: the pairs of pools, sorted. Tasks with adapters of equal tuning share one.
        adapters: the adapters that the workers of each prefill pool need, each with the pairs of pools of its tasks.
    """

    by_task: Mapping[str, TaskPath]
    paths: frozenset[TaskPath]
    pools: tuple[PoolPair, ...]
    adapters: Mapping[str, Needs]

    @classmethod
    def of(cls, served: Mapping[str, FleetTask], trials: Iterable[FleetTask], wanted: Iterable[FleetTask]) -> TaskUse:
        """Return what tasks use.

        Args:
            served: the tasks that are served now, by name.
            trials: tasks that an admin waits for; their adapters come first.
            wanted: tasks that will be served.
        """
        # equal paths become one object: a lookup for a request then compares no adapter field by field
        paths: dict[TaskPath, TaskPath] = {}
        for task in (*trials, *served.values(), *wanted):
            path = TaskPath.of(task)
            paths.setdefault(path, path)
        needed: dict[str, dict[AdapterRef, list[PoolPair]]] = {}
        for path in paths:
            if path.adapter is not None:
                needed.setdefault(path.pools.prefill, {}).setdefault(path.adapter, []).append(path.pools)
        return cls(
            by_task={name: paths[TaskPath.of(task)] for name, task in served.items()},
            paths=frozenset(paths),
            pools=tuple(sorted({path.pools for path in paths}, key=PoolPair.sort_key)),
            adapters={pool: {a: tuple(pairs) for a, pairs in of.items()} for pool, of in needed.items()},
        )
