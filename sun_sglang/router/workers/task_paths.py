"""What a set of tasks uses: the paths of each task, the pairs of pools, and the adapters of each prefill pool. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

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


class TaskUse(NamedTuple):
    """What tasks use.

    Attributes:
        by_task: of each task that is served.
        paths: of all tasks.
        pools: the pairs of pools, sorted. Tasks with adapters of equal tuning share one.
        adapters: the adapters that the workers of each prefill pool need.
    """

    by_task: Mapping[str, TaskPath]
    paths: frozenset[TaskPath]
    pools: tuple[PoolPair, ...]
    adapters: Mapping[str, tuple[AdapterRef, ...]]

    @classmethod
    def of(cls, served: Mapping[str, FleetTask], others: Iterable[FleetTask]) -> TaskUse:
        """Return what tasks use.

        Args:
            served: the tasks that are served now, by name.
            others: tasks that will be served.
        """
        # equal paths become one object: a lookup for a request then compares no adapter field by field
        paths: dict[TaskPath, TaskPath] = {}
        found = [paths.setdefault(path, path) for path in map(TaskPath.of, (*served.values(), *others))]
        needed: dict[str, dict[AdapterRef, None]] = {}
        for path in paths:
            if path.adapter is not None:
                needed.setdefault(path.pools.prefill, {})[path.adapter] = None
        return cls(
            by_task=dict(zip(served, found, strict=False)),
            paths=frozenset(paths),
            pools=tuple(sorted({path.pools for path in paths}, key=PoolPair.sort_key)),
            adapters={pool: tuple(adapters) for pool, adapters in needed.items()},
        )
