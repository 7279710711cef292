"""Workers on the machines of a Ray cluster."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.command import fingerprint
from sun_sglang.launch.places.place import Needs, PlaceLostError, Running, Slot
from sun_sglang.launch.places.ray.calls import answered
from sun_sglang.launch.places.ray.cluster import connect, nodes
from sun_sglang.launch.places.ray.host.worker_host import HostState, StartState, WorkerHost, running_starts
from sun_sglang.launch.places.ray.machines import read_machines
from sun_sglang.launch.places.ray.paths import paths_of
from sun_sglang.launch.places.ray.record import RayRecord, new_record, read_record, remove_record, write_record
from sun_sglang.launch.places.ray.room import bundles, describe_room
from sun_sglang.launch.places.ray.running import RayRunning
from sun_sglang.launch.places.ray.slot import RaySlot, remove_group
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.topology import PlaceSettings

_STATE_WITHIN_S = 60.0
_KILLED_WITHIN_S = 60.0
# Ray starts a Python process for the actor, which imports this package
_OPEN_WITHIN_S = 180.0


class RayPlace:
    """The machines of a Ray cluster. Workers outlive their launcher, and a later one adopts them.

    Args:
        run_dir: the deployment's run directory; holds the record by which a later launcher finds the workers.
        settings: the cluster's address, the machines' labels and the longest wait for room.
    """

    outlives_launcher = True

    def __init__(self, run_dir: Path, settings: PlaceSettings) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._record: RayRecord | None = None
        self._slots: dict[str, RaySlot] = {}
        self._reserving: set[str] = set()
        self._running: dict[str, RayRunning] = {}
        # whether all workers of the record are this place's, to be ended by `close`
        self._owns = False

    async def open(self) -> None:
        """Connect to the cluster.

        Raises:
            UserError: there is none, or it cannot be used from here.
        """
        self._record = read_record(self._run_dir)
        await connect(self._record.address if self._record else self._settings.address)

    async def machines(self) -> tuple[Machine, ...]:
        """Return the machines of the cluster that may run workers, in the order of their addresses.

        Raises:
            UserError: there is none, or one cannot run this package, or has other versions.
        """
        await connect(self._settings.address)
        found = await nodes(self._settings.labels)
        return await read_machines(sorted(found, key=lambda node: (node["NodeManagerAddress"], node["NodeID"])))

    async def reserve(self, worker: str, needs: Needs) -> Slot:
        """Reserve resources and start the worker's actors, which choose its HTTP port.

        Raises:
            LaunchError: no machine has the room within the time that the settings give, or the worker has a slot.
        """
        slot = self._slots.get(worker)
        if slot is not None and slot.is_adopted:
            slot.is_adopted = False
            return slot
        if slot is not None or worker in self._reserving:
            raise LaunchError(f"`{worker}` has a slot already")
        self._reserving.add(worker)
        try:
            slot = self._slots[worker] = await self._make_slot(worker, needs)
        finally:
            self._reserving.discard(worker)
        return slot

    async def start(self, slot: Slot, worker: WorkerPlan) -> Running:
        """Start a worker in its slot; the machine chooses new ports for everything but HTTP.

        Raises:
            RefusedError: a machine lacks a file that the worker reads.
            LaunchError: this start failed.
            PlaceLostError: Ray has lost a machine.
        """
        own = self._slots[slot.worker]
        name, plan, paths = worker.name, fingerprint(worker), paths_of(worker)
        meeting = await answered(name, own.hosts[0].choose_meeting.remote) if len(own.hosts) > 1 else ""
        tried = await asyncio.gather(
            *(answered(name, partial(host.start.remote, worker, plan, paths, meeting)) for host in own.hosts),
            return_exceptions=True,
        )
        starts = [start for start in tried if isinstance(start, StartState)]
        failed = [start for start in tried if isinstance(start, BaseException)]
        if failed:
            # a rank alone waits for the others for ever
            for host, start in zip(own.hosts, tried, strict=True):
                if isinstance(start, StartState):
                    await answered(name, partial(host.send.remote, start.number, int(signal.SIGKILL)))
            raise failed[0]
        own.copy_logs(worker.log)
        running = self._running[name] = RayRunning(name, own.hosts, tuple(starts))
        return running

    async def adopt(self, workers: Iterable[WorkerPlan] = ()) -> dict[str, Running]:
        """Return the workers that run since an earlier launcher as planned, and end all others of that launcher.

        Args:
            workers: the plans.

        Raises:
            LaunchError: Ray does not answer.
        """
        if self._record is None:
            return {}
        adopted = await self._adopt(self._record.namespace, workers)
        self._owns = True
        return adopted

    async def _adopt(self, namespace: str, workers: Iterable[WorkerPlan]) -> dict[str, Running]:
        plans = {worker.name: worker for worker in workers}
        found = await self._find_hosts(namespace)
        adopted: dict[str, Running] = {}
        ordered = sorted(found, key=lambda one: (one[0].worker, one[0].rank))
        for name, of_worker in groupby(ordered, lambda one: one[0].worker):
            states, hosts = zip(*of_worker, strict=True)
            slot = RaySlot(hosts, states, is_adopted=True)
            plan = plans.get(name)
            starts = running_starts(states, "" if plan is None else fingerprint(plan))
            if plan is None or starts is None:
                await slot.end()
                continue
            slot.copy_logs(plan.log)
            self._slots[name] = slot
            adopted[name] = self._running[name] = RayRunning(name, hosts, starts)
        await self._remove_groups(namespace, keep={slot.group for slot in self._slots.values()})
        return adopted

    async def running_workers(self) -> tuple[str, ...]:
        """Return the names of this deployment's workers that run, in order; changes nothing.

        Raises:
            LaunchError: Ray does not answer.
        """
        found = await self._find_hosts(self._record.namespace) if self._record else ()
        return tuple(
            sorted({state.worker for state, _ in found if state.start is not None and not state.start.has_ended})
        )

    async def release(self, slot: Slot) -> None:
        """End the slot's actors and give its resources back."""
        own = self._slots.pop(slot.worker, None)
        self._running.pop(slot.worker, None)
        if own is not None:
            await own.end()

    async def close(self) -> None:
        """Kill the workers that still run, and end their actors.

        Workers of an earlier launcher that this place has not adopted stay.
        """
        if self._record is None or not self._owns:
            return
        await asyncio.gather(*(self._kill(running) for running in self._running.values()))
        await asyncio.gather(*(slot.end() for slot in self._slots.values()))
        await self._remove_groups(self._record.namespace, keep=set())
        self._running.clear()
        self._slots.clear()
        remove_record(self._run_dir)
        self._record = None
        self._owns = False

    async def _kill(self, running: RayRunning) -> None:
        # what runs on a lost machine ends with its guard
        with suppress(PlaceLostError, TimeoutError):
            async with asyncio.timeout(_KILLED_WITHIN_S):
                await running.send(signal.SIGKILL)
                await running.wait_gone()

    async def _make_slot(self, worker: str, needs: Needs) -> RaySlot:
        import ray
        from ray.util.placement_group import placement_group

        namespace = self._open_record().namespace
        wanted, labels = bundles(needs), self._settings.labels
        group = placement_group(
            wanted,
            strategy="STRICT_SPREAD" if len(wanted) > 1 else "PACK",
            name=f"{namespace}/{worker}/{secrets.token_hex(4)}",
            lifetime="detached",
            bundle_label_selector=[labels] * len(wanted) if labels else None,
        )
        hosts: tuple[Any, ...] = ()
        try:
            if not await asyncio.to_thread(group.wait, self._settings.room_timeout):
                room = describe_room(wanted, await asyncio.to_thread(ray.nodes), labels)
                raise LaunchError(
                    f"the Ray cluster has no room for `{worker}` within {self._settings.room_timeout:g} s: {room}"
                )
            hosts = tuple(self._make_host(group, namespace, worker, needs, rank) for rank in range(len(wanted)))
            opened = await asyncio.gather(
                *(answered(worker, host.open.remote, within=_OPEN_WITHIN_S) for host in hosts)
            )
        except BaseException:
            for host in hosts:
                await asyncio.to_thread(ray.kill, host)
            await asyncio.to_thread(remove_group, group.id.hex())
            raise
        return RaySlot(hosts, tuple(opened))

    def _make_host(self, group: Any, namespace: str, worker: str, needs: Needs, rank: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return (
            ray.remote(WorkerHost)
            .options(
                name=f"{worker}/{rank}/{secrets.token_hex(4)}",
                namespace=namespace,
                lifetime="detached",
                max_restarts=0,
                max_task_retries=0,
                num_cpus=1,
                num_gpus=needs.gpus // needs.nodes,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=rank
                ),
            )
            .remote(worker, rank, needs.nodes)
        )

    def _open_record(self) -> RayRecord:
        """Return the deployment's record; write it before the first actor exists."""
        if self._record is None:
            self._record = new_record(self._settings.address)
            write_record(self._run_dir, self._record)
        self._owns = True
        return self._record

    async def _find_hosts(self, namespace: str) -> Sequence[tuple[HostState, Any]]:
        """Return the actors of this deployment that answer, with their states."""
        import ray

        named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = [actor["name"] for actor in named if actor["namespace"] == namespace]
        found = await asyncio.gather(*(self._find_host(name, namespace) for name in names))
        return [one for one in found if one is not None]

    async def _find_host(self, name: str, namespace: str) -> tuple[HostState, Any] | None:
        import ray

        try:
            host = await asyncio.to_thread(ray.get_actor, name, namespace)
        except ValueError:  # it has ended since it was listed
            return None
        try:
            return await answered(name.partition("/")[0], host.state.remote, within=_STATE_WITHIN_S), host
        except LaunchError:  # whoever adopts the others ends it with its placement group
            return None

    async def _remove_groups(self, namespace: str, keep: set[str]) -> None:
        """Give back the placement groups of this deployment whose actors are gone."""
        from ray.util.placement_group import placement_group_table

        table = await asyncio.to_thread(placement_group_table)
        for group, entry in table.items():
            if entry["name"].startswith(f"{namespace}/") and entry["state"] != "REMOVED" and group not in keep:
                await asyncio.to_thread(remove_group, group)
