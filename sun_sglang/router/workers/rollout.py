"""Replace the fleet that is served by another one, in steps that lose no request. State and rules; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sun_sglang.contracts.fleet_file import Fleet, FleetTask, FleetWorker
from sun_sglang.router.workers.registry import Registry


class Rollout:
    """The change of a registry's fleet that is under way.

    A new worker serves once it is proven. A worker that is not in the new fleet takes no new requests, and is removed
    when its requests have ended. A task with other pools or other weights moves once a path for it is proven, which
    is at once if another task uses it already; until then the task is served as before. A new task with weights of
    its own is unknown until then. A task that is removed keeps its pools and its weights while it has requests.

    Args:
        registry: holds the fleet.
        has_requests: returns whether a task has requests that have not ended.
    """

    def __init__(self, registry: Registry, has_requests: Callable[[str], bool] = lambda _: False) -> None:
        self._registry = registry
        self._has_requests = has_requests
        registry.on_progress.append(self.settle)

    def change(self, wanted: Fleet) -> None:
        """Begin to serve another fleet."""
        registry = self._registry
        registry.want(wanted)
        wanted = registry.wanted
        specs = {spec.name: spec for spec in wanted.workers}
        for name, worker in list(registry.workers.items()):
            spec = specs.get(name)
            if spec is not None and _address(spec) != _address(worker.spec):
                registry.remove(name, "it was replaced")
            elif spec is not None and (spec != worker.spec or spec.draining != worker.draining):
                registry.update(spec)
        self._serve(self._tasks())
        for name, spec in specs.items():
            if name not in registry.workers:
                registry.announce(registry.add(spec))
        self.settle()

    def settle(self) -> None:
        """Take the steps that have become possible. Returns early if no change is under way."""
        registry = self._registry
        if self._is_over():
            return
        tasks, leaving = self._tasks(), self._leaving()
        if tasks != registry.fleet.tasks or leaving != registry.leaving:
            self._serve(tasks)
        self._remove_unwanted()
        is_over = tasks == registry.wanted.tasks and len(registry.workers) == len(registry.wanted.workers)
        if is_over and registry.fleet is not registry.wanted:
            registry.serve(registry.wanted, leaving)

    def _is_over(self) -> bool:
        registry = self._registry
        is_served = registry.fleet is registry.wanted and not registry.leaving
        return is_served and len(registry.workers) == len(registry.wanted.workers)

    def _remove_unwanted(self) -> None:
        """Drain the workers that are neither wanted nor needed by a task any more; remove those without requests."""
        registry = self._registry
        needed = {*_pools(registry.fleet.tasks.values()), *_pools(registry.leaving.values())}
        needed -= _pools(registry.wanted.tasks.values())
        stay = {spec.name for spec in registry.wanted.workers}
        for name, worker in list(registry.workers.items()):
            if name in stay or worker.spec.pool in needed:
                continue
            registry.drain(name)
            if worker.load.requests == 0:
                registry.remove(name, "it was removed")

    def _serve(self, tasks: Mapping[str, FleetTask]) -> None:
        """Serve these tasks with the workers that are in the registry now."""
        registry, leaving = self._registry, self._leaving()
        pools = registry.wanted.pools
        for pool in _pools((*tasks.values(), *leaving.values())):
            if pool not in pools:
                pools = pools | {pool: registry.fleet.pools[pool]}
        workers = tuple(worker.spec for worker in registry.workers.values() if worker.spec.pool in pools)
        registry.serve(registry.wanted.model_copy(update={"tasks": tasks, "pools": pools, "workers": workers}), leaving)

    def _tasks(self) -> dict[str, FleetTask]:
        """Return the wanted tasks as they can be served now."""
        found = ((name, self._servable(name, task)) for name, task in self._registry.wanted.tasks.items())
        return {name: task for name, task in found if task is not None}

    def _servable(self, name: str, task: FleetTask) -> FleetTask | None:
        """Return a task with its new settings, and with its old pools and weights unless the new ones are proven.

        A new task with weights of its own is None until then.
        """
        now = self._registry.fleet.tasks.get(name)
        if self._registry.can_serve(task):
            return task
        if now is None:
            return task if task.weights is None else None
        kept = ("prefill", "decode", "adapter", "module")
        held = task.model_copy(update={name: getattr(now, name) for name in kept})
        return now if held == now else held

    def _leaving(self) -> dict[str, FleetTask]:
        """Return the tasks that are not wanted any more and have requests."""
        registry = self._registry
        gone = {**registry.leaving, **registry.fleet.tasks}
        return {n: task for n, task in gone.items() if n not in registry.wanted.tasks and self._has_requests(n)}


def _address(spec: FleetWorker) -> tuple[str, str, str | None]:
    """Return the values of which a change makes a worker another worker."""
    return spec.pool, spec.url, spec.key


def _pools(tasks: Iterable[FleetTask]) -> set[str]:
    return {pool for task in tasks for pool in (task.prefill, task.decode)}
