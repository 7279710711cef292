"""Give the weights of a task to a worker, and take them away, of either kind. I/O through the clients of the kinds."""

from __future__ import annotations

from sun_sglang.contracts.adapter import NAME_PREFIX
from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.module import ModuleRef, TaskWeights
from sun_sglang.router.health.task_weights.clients.adapter_client import AdapterClient
from sun_sglang.router.health.task_weights.clients.change import Change
from sun_sglang.router.health.task_weights.clients.module_client import ModuleClient
from sun_sglang.router.task_weights.kind import Kind


class WeightsClient:
    """Selects the client of a kind of weights.

    Args:
        adapters: loads and unloads adapters.
        modules: gives and takes modules.
    """

    def __init__(self, adapters: AdapterClient, modules: ModuleClient) -> None:
        self._adapters = adapters
        self._modules = modules

    async def load(self, worker: FleetWorker, weights: TaskWeights) -> Change:
        """Give weights to a worker. There is no fault if the worker has them, given now or before."""
        if isinstance(weights, ModuleRef):
            return await self._modules.give(worker, weights)
        return await self._adapters.load(worker, weights)

    async def unload(self, worker: FleetWorker, name: str) -> str:
        """Take weights from a worker by their name, and return the fault; empty if it does not have them any more."""
        if kind_of_name(name) == "adapter":
            return await self._adapters.unload(worker, name)
        return await self._modules.take(worker, name)


def kind_of_name(name: str) -> Kind:
    """Return the kind of weights by their name on a worker: that of a module is hexadecimal, and has no prefix."""
    return "adapter" if name.startswith(NAME_PREFIX) else "module"
