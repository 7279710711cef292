"""A server under measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sun_sglang.bench.load.client.endpoint import Endpoint
from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics.summary import Workers
from sun_sglang.strict import listed


class TaskWorkers(NamedTuple):
    """The workers that serve one task, by name."""

    prefill: frozenset[str]
    decode: frozenset[str]


@dataclass(frozen=True)
class Target:
    """A server under measurement.

    Attributes:
        kind: `deployment` of this machine, or `url`.
        name: the topology file of a deployment, or the URL.
        endpoint: where requests go.
        tasks: the tasks that it serves, in its order.
        workers: the workers of each task; empty where they are unknown.
    """

    kind: Literal["deployment", "url"]
    name: str
    endpoint: Endpoint
    tasks: tuple[str, ...]
    workers: Mapping[str, TaskWorkers] = field(default_factory=dict)

    def choose(self, wished: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks to measure: the wished ones in their order, or all.

        Raises:
            FlagError: the target serves no tasks, or not a wished one.
        """
        if not self.tasks:
            raise FlagError("url", f"{self.endpoint.url} serves no task")
        for task in wished:
            if task not in self.tasks:
                raise FlagError("tasks", f"{self.endpoint.url} serves no task `{task}`; it serves {listed(self.tasks)}")
        return tuple(wished) or self.tasks

    def workers_of(self, tasks: Iterable[str]) -> Workers | None:
        """Return how many workers serve some tasks, each counted once; None where they are unknown."""
        pairs = [self.workers[task] for task in tasks if task in self.workers]
        if not pairs:
            return None
        decode = frozenset[str]().union(*(pair.decode for pair in pairs))
        prefill = frozenset[str]().union(*(pair.prefill for pair in pairs))
        return Workers(len(prefill | decode), len(decode))
