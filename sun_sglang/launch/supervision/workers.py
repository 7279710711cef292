"""The workers of one deployment: their slots at the place, their processes, and their entries at the router."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.places.place import Place, Running, Slot, needs_of
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import ProcessState, new_process
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess


class Workers:
    """Workers that are kept running. A pool that sizes itself adds and removes some (`launch/autoscale`).

    Args:
        plans: the workers that are started at first.
        place: where they run.
        connect: returns a client of the router.
        changed: called after every change of a state.
        grace: seconds that a worker may take to end after SIGTERM.

    Attributes:
        processes: the workers by name.
        key: the worker key; set before the first start.
    """

    def __init__(
        self,
        plans: tuple[WorkerPlan, ...],
        place: Place,
        connect: Callable[[], RouterClient],
        changed: Callable[[], None],
        grace: float,
    ) -> None:
        self.key = ""
        self._plans = plans
        self._place = place
        self._connect = connect
        self._changed = changed
        self._grace = grace
        self._slots: dict[str, Slot] = {}
        # workers that run since an earlier launcher, until their first `start`
        self._adopted: dict[str, Running] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.processes = {worker.name: self._supervised(worker) for worker in plans}

    def states(self) -> dict[str, ProcessState]:
        """Return the states of the workers by name."""
        return {name: process.state for name, process in self.processes.items()}

    def connect(self) -> RouterClient:
        """Return a client of the router."""
        return self._connect()

    async def adopt(self, plans: Iterable[WorkerPlan]) -> tuple[str, ...]:
        """Take over the workers that an earlier launcher left as planned, and end all others of it; return their names.

        Args:
            plans: every worker that may run, with those of a pool that sizes itself.

        Raises:
            LaunchError: the place does not answer.
        """
        plans = tuple(plans)
        self._adopted = await self._place.adopt(plans)
        for worker in plans:
            if worker.name in self._adopted and worker.name not in self.processes:
                self._plans = (*self._plans, worker)
                self.processes[worker.name] = self._supervised(worker)
        return tuple(self._adopted)

    async def reserve(self) -> tuple[FleetWorker, ...]:
        """Reserve a slot for every worker that is started at first, and return the router's entries for them.

        Raises:
            LaunchError: the place has no room.
            UserError: the place cannot run such a worker.
        """
        reserved = await asyncio.gather(*map(self._reserve, self._plans), return_exceptions=True)
        for slot in reserved:
            # only now: the place is closed next, and nothing may be reserved after that
            if isinstance(slot, BaseException):
                raise slot
        slots = self._slots
        return tuple(
            FleetWorker(name=worker.name, pool=worker.pool, url=slots[worker.name].address.url, key=self.key)
            for worker in self._plans
        )

    def run(self) -> None:
        """Begin to keep every worker running."""
        for process in self.processes.values():
            self._run(process)

    async def stop(self) -> None:
        """End every worker, and return once none is left."""
        await asyncio.gather(*(process.stop(self._grace) for process in self.processes.values()))

    async def ended(self) -> None:
        """Wait until every worker has ended."""
        await asyncio.gather(*self._running.values())

    async def start_worker(self, worker: WorkerPlan) -> None:
        """Give a worker a slot, add it to the router, and keep it running.

        Raises:
            LaunchError: the place has no room, or the router does not answer.
            UserError: the place cannot run it, or the router refuses it.
        """
        assert worker.name not in self.processes
        process = self.processes[worker.name] = self._supervised(worker)
        try:
            slot = await self._reserve(worker)
            async with self._connect() as client:
                await client.add_worker(worker.name, worker.pool, slot.address.url, self.key)
        except BaseException:
            del self.processes[worker.name]
            if (reserved := self._slots.pop(worker.name, None)) is not None:
                await self._place.release(reserved)
            raise
        self._run(process)

    async def stop_worker(self, name: str) -> None:
        """Remove a worker from the router, end its processes and give its slot back; no error if it is not there.

        Raises:
            LaunchError: the router does not answer.
        """
        async with self._connect() as client:
            if name in {known["name"] for known in await client.workers()}:
                await client.remove_worker(name, force=False)
        if name not in self.processes:
            return
        await self.processes[name].stop(self._grace)
        # its end goes on where this call is cancelled
        await asyncio.shield(self._running[name])
        del self.processes[name], self._running[name]
        await self._place.release(self._slots.pop(name))
        self._changed()

    def _run(self, process: SupervisedProcess) -> None:
        self._running[process.state.name] = asyncio.create_task(process.run())

    def _supervised(self, worker: WorkerPlan) -> SupervisedProcess:
        state = new_process(worker.name, worker.role, worker.log, pool=worker.pool)

        async def start(_restarts: int) -> Running:
            if (adopted := self._adopted.pop(worker.name, None)) is not None:
                return adopted
            return await self._place.start(self._slots[worker.name], worker.with_key(self.key))

        return SupervisedProcess(state, start, self._changed, prepare=partial(self._prepare_restart, worker))

    async def _prepare_restart(self, worker: WorkerPlan, lost: bool) -> None:
        if lost:
            await self._move(worker)
        else:
            await self._slots[worker.name].wait_free()

    async def _move(self, worker: WorkerPlan) -> None:
        """Give a worker whose machine is lost another slot, and register its new URL at the router.

        Raises:
            LaunchError: the place has no room, or the router does not answer or refuses the change. The next try may
                succeed.
        """
        await self._place.release(self._slots[worker.name])
        try:
            slot = await self._reserve(worker)
            async with self._connect() as client:
                if worker.name in {known["name"] for known in await client.workers()}:
                    await client.remove_worker(worker.name, force=True)
                await client.add_worker(worker.name, worker.pool, slot.address.url, self.key)
        except UserError as e:
            raise LaunchError(f"{worker.name} cannot move to another machine: {e}") from e

    async def _reserve(self, worker: WorkerPlan) -> Slot:
        slot = await self._place.reserve(worker.name, needs_of(worker))
        self._slots[worker.name] = slot
        self.processes[worker.name].set(url=slot.address.url)
        return slot
