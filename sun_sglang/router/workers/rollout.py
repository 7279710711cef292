"""Replace the fleet that is served by another one, in steps that lose no request. State and rules; no I/O."""

from __future__ import annotations

from sun_sglang.contracts.fleet_file import Fleet, FleetTask, FleetWorker
from sun_sglang.router.workers.registry import Registry


class Rollout:
    """The change of a registry's fleet that is under way.

    A new worker serves once it is proven. A worker that is not in the new fleet takes no new requests, and is removed
    when its requests have ended. A task with other pools moves once a path between them is proven, which is at once if
    another task uses them already; until then its old pools serve it.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        registry.on_progress.append(self.settle)

    def change(self, wanted: Fleet) -> None:
        """Begin to serve another fleet."""
        registry = self._registry
        registry.want(wanted)
        specs = {spec.name: spec for spec in wanted.workers}
        for name, worker in list(registry.workers.items()):
            spec = specs.get(name)
            if spec is not None and _address(spec) != _address(worker.spec):
                registry.remove(name, "it was replaced")
            elif spec is not None:
                registry.update(spec)
        self._serve({name: self._with_proven_pools(name, task) for name, task in wanted.tasks.items()})
        for name, spec in specs.items():
            if name not in registry.workers:
                registry.announce(registry.add(spec))
        self.settle()

    def settle(self) -> None:
        """Take the steps that have become possible. Returns early if no change is under way."""
        registry = self._registry
        if self._is_over():
            return
        tasks = {
            name: task if registry.can_serve(task) else registry.fleet.tasks[name]
            for name, task in registry.wanted.tasks.items()
        }
        if tasks != registry.fleet.tasks:
            self._serve(tasks)
        self._remove_unwanted()
        if tasks == registry.wanted.tasks and len(registry.workers) == len(registry.wanted.workers):
            registry.serve(registry.wanted)

    def _is_over(self) -> bool:
        registry = self._registry
        return registry.fleet is registry.wanted and len(registry.workers) == len(registry.wanted.workers)

    def _remove_unwanted(self) -> None:
        """Drain the workers that are neither wanted nor needed by a task any more; remove those without requests."""
        registry = self._registry
        needed = _pools(registry.fleet) - _pools(registry.wanted)
        stay = {spec.name for spec in registry.wanted.workers}
        for name, worker in list(registry.workers.items()):
            if name in stay or worker.spec.pool in needed:
                continue
            registry.drain(name)
            if worker.load.requests == 0:
                registry.remove(name, "it was removed")

    def _serve(self, tasks: dict[str, FleetTask]) -> None:
        """Serve these tasks with the workers that are in the registry now."""
        registry = self._registry
        pools = registry.wanted.pools
        for task in tasks.values():
            for pool in (task.prefill, task.decode):
                if pool not in pools:
                    pools = pools | {pool: registry.fleet.pools[pool]}
        workers = tuple(worker.spec for worker in registry.workers.values() if worker.spec.pool in pools)
        registry.serve(registry.wanted.model_copy(update={"tasks": tasks, "pools": pools, "workers": workers}))

    def _with_proven_pools(self, name: str, task: FleetTask) -> FleetTask:
        """Return a task as it can be served at once: with its new settings, and with its old pools unless proven."""
        now = self._registry.fleet.tasks.get(name)
        if now is None or self._registry.can_serve(task):
            return task
        return task.model_copy(update={"prefill": now.prefill, "decode": now.decode})


def _address(spec: FleetWorker) -> tuple[str, str, str | None]:
    """Return the values of which a change makes a worker another worker."""
    return spec.pool, spec.url, spec.key


def _pools(fleet: Fleet) -> set[str]:
    return {pool for task in fleet.tasks.values() for pool in (task.prefill, task.decode)}
