"""A server under measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sun_sglang.bench.load.client.endpoint import Endpoint, Prepared, Route, prepare
from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics.summary import Workers
from sun_sglang.bench.load.workload.planned import PlannedRequest
from sun_sglang.strict import listed

TargetKind = Literal["deployment", "url", "topology", "peer"]


class TaskWorkers(NamedTuple):
    """The workers that serve one task, by name."""

    prefill: frozenset[str]
    decode: frozenset[str]


@dataclass(frozen=True)
class Target:
    """A server under measurement, or several of one system.

    Attributes:
        kind: a `deployment` of this machine, a `url`, or what a `topology` or `peer` file has started.
        name: the topology file of a deployment, or the URL.
        routes: how the requests of each task are sent, in the order of the tasks.
        workers: the workers of each task; empty where they are unknown.
        flushes: the servers that empty their prefix caches on request, by this user's key.
    """

    kind: TargetKind
    name: str
    routes: Mapping[str, Route]
    workers: Mapping[str, TaskWorkers] = field(default_factory=dict)
    flushes: tuple[Endpoint, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it serves."""
        return tuple(self.routes)

    def endpoint_of(self, task: str) -> Endpoint:
        """Return where the requests of a task go."""
        return self.routes[task].endpoint

    def prepare(self, request: PlannedRequest) -> Prepared:
        """Return the request that is sent of one that is planned."""
        route = self.routes[request.task]
        return prepare(request, route.model, route.fields)

    def choose(self, wished: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks to measure: the wished ones in their order, or all.

        Raises:
            FlagError: the target serves no tasks, or not a wished one.
        """
        return choose_tasks(self.name, self.tasks, wished)

    def workers_of(self, tasks: Iterable[str]) -> Workers | None:
        """Return how many workers serve some tasks, each counted once; None where they are unknown."""
        pairs = [self.workers[task] for task in tasks if task in self.workers]
        if not pairs:
            return None
        decode = frozenset[str]().union(*(pair.decode for pair in pairs))
        prefill = frozenset[str]().union(*(pair.prefill for pair in pairs))
        return Workers(len(prefill | decode), len(decode))


def choose_tasks(name: str, tasks: Sequence[str], wished: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks to measure: the wished ones in their order, or all.

    Args:
        name: the name of what is measured.
        tasks: the tasks that it serves.
        wished: the tasks that the user names.

    Raises:
        FlagError: there are no tasks, or not a wished one.
    """
    if not tasks:
        raise FlagError("url", f"{name} serves no task")
    for task in wished:
        if task not in tasks:
            raise FlagError("tasks", f"{name} serves no task `{task}`; it serves {listed(tasks)}")
    return tuple(wished) or tuple(tasks)


def one_endpoint(
    kind: TargetKind,
    name: str,
    endpoint: Endpoint,
    tasks: Iterable[str],
    workers: Mapping[str, TaskWorkers] | None = None,
    *,
    can_flush: bool = False,
) -> Target:
    """Return a target of which one server serves all tasks by their names.

    Args:
        kind: its kind.
        name: its name.
        endpoint: the server.
        tasks: the tasks that it serves.
        workers: the workers of each task; None where they are unknown.
        can_flush: whether this user may empty its caches.
    """
    routes = {task: Route(endpoint) for task in tasks}
    return Target(kind, name, routes, workers or {}, (endpoint,) if can_flush else ())
