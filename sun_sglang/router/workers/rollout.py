"""From the fleet that is served to the one that is wanted, in steps that lose no request. State and rules; no I/O."""

from __future__ import annotations

from sun_sglang.contracts.fleet_file import Fleet, FleetWorker
from sun_sglang.router.workers.registry import Registry
from sun_sglang.topology import Task


class Rollout:
    """The changes of a registry's fleet.

    A worker that is new joins once it has proven itself. One that is gone takes no new requests and leaves when those
    that it has have ended. A task with other pools moves to them once a path between those is proven; until then the
    old ones serve it.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        registry.on_progress.append(self.settle)

    def change(self, wanted: Fleet) -> None:
        """Begin to serve another fleet."""
        registry = self._registry
        registry.wanted = wanted
        specs = {spec.name: spec for spec in wanted.workers}
        for name, worker in list(registry.workers.items()):
            spec = specs.get(name)
            if spec is not None and _address(spec) != _address(worker.spec):
                registry.remove(name, "it was replaced")
            elif spec is not None:
                worker.spec, worker.draining = spec, spec.draining
        self._serve({name: self._without_new_pools(name, task) for name, task in wanted.tasks.items()})
        for name, spec in specs.items():
            if name not in registry.workers:
                added = registry.add(spec)
                for listener in registry.on_added:
                    listener(added)
        registry.refresh()
        self.settle()

    def settle(self) -> None:
        """Take the steps that have become possible. Cheap where there are none."""
        registry = self._registry
        if self._is_over():
            return
        tasks = {
            name: task if registry.is_proven(name, task) else registry.fleet.tasks[name]
            for name, task in registry.wanted.tasks.items()
        }
        if tasks != registry.fleet.tasks:
            self._serve(tasks)
        self._let_go()
        if tasks == registry.wanted.tasks and len(registry.workers) == len(registry.wanted.workers):
            registry.serve(registry.wanted)
        registry.refresh()

    def _is_over(self) -> bool:
        registry = self._registry
        return registry.fleet is registry.wanted and len(registry.workers) == len(registry.wanted.workers)

    def _let_go(self) -> None:
        """Drain the workers that are not wanted and that no task needs any more; remove those without requests."""
        registry = self._registry
        needed = _pools(registry.fleet) - _pools(registry.wanted)
        stay = {spec.name for spec in registry.wanted.workers}
        for name, worker in list(registry.workers.items()):
            if name in stay or worker.spec.pool in needed:
                continue
            worker.draining = True
            if worker.requests == 0:
                registry.remove(name, "it was removed")

    def _serve(self, tasks: dict[str, Task]) -> None:
        """Serve these tasks, with the workers that are here now."""
        registry = self._registry
        pools = registry.wanted.pools
        for task in tasks.values():
            for pool in (task.prefill, task.decode):
                if pool not in pools:
                    pools = pools | {pool: registry.fleet.pools[pool]}
        workers = tuple(worker.spec for worker in registry.workers.values() if worker.spec.pool in pools)
        registry.serve(registry.wanted.model_copy(update={"tasks": tasks, "pools": pools, "workers": workers}))

    def _without_new_pools(self, name: str, task: Task) -> Task:
        """A task as it may be served at once: with all that is new, but for pools that are not proven yet."""
        now = self._registry.fleet.tasks.get(name)
        if now is None or self._registry.is_proven(name, task):
            return task
        return task.model_copy(update={"prefill": now.prefill, "decode": now.decode})


def _address(spec: FleetWorker) -> tuple[str, str, str | None]:
    """Return what makes a worker another worker where it changes."""
    return spec.pool, spec.url, spec.key


def _pools(fleet: Fleet) -> set[str]:
    return {pool for task in fleet.tasks.values() for pool in (task.prefill, task.decode)}
