"""Keep the router's workers in step with the pods. I/O: the router's API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.kubernetes.discovery.changes import Add, Change, Drain, Known, Remove, changes
from sun_sglang.kubernetes.discovery.pods import Event, Pod, PodTable
from sun_sglang.launch.router_client import RouterClient

Report = Callable[[str], None]

# A router that starts again has the workers of its fleet file, or none: its list is read again now and then.
_RESYNC_S = 5.0
_PAUSE_S = 0.5
# at most 500 bytes each, and the router reads 64 KiB
_BATCH = 100
_PLACE = re.compile(r"^workers\.\d+\.")


class Reconciler:
    """Compares the pods with the router's workers after every event, and makes the changes that are due.

    It is level-triggered: each round begins with the router's own list, so a round that failed half-way is repeated.

    Args:
        connect: returns a client of the router, with its present credentials.
        prefix: begins the name of each pod of the deployment.
        key: the worker key of its workers.
        report: receives a line for each change and for each new reason of a failure.
        resync: seconds without an event after which the router's list is read again.
        pause: seconds after a round in which the router did not answer.
    """

    def __init__(
        self,
        connect: Callable[[], RouterClient],
        prefix: str,
        key: str | None,
        report: Report,
        *,
        resync: float = _RESYNC_S,
        pause: float = _PAUSE_S,
    ) -> None:
        self._connect = connect
        self._prefix = prefix
        self._key = key
        self._report = report
        self._resync = resync
        self._pause = pause
        self._table = PodTable()
        self._due = asyncio.Event()
        self._added: dict[str, str] = {}
        self._drained: dict[str, str] = {}
        self._failures: dict[str, str] = {}

    def take_list(self, pods: list[Pod]) -> None:
        """Take over a complete list of the pods."""
        self._table.replace(pods)
        self._failures.pop("watch", None)
        self._due.set()

    def take_event(self, event: Event) -> None:
        """Take over an event that follows it."""
        self._table.apply(event)
        self._due.set()

    def note_failure(self, reason: str) -> None:
        """Report that the pods cannot be read. No worker changes."""
        self._failed("watch", reason)

    async def run(self) -> None:
        """Make the changes that are due, until cancelled. Without a list of the pods there are none."""
        while True:
            try:
                async with asyncio.timeout(self._resync):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            if self._table.pods is not None and not await self.step():
                await asyncio.sleep(self._pause)
                self._due.set()

    async def step(self) -> bool:
        """Make the changes that are due now; return False where the router does not answer."""
        assert self._table.pods is not None, "the caller has a list"
        try:
            async with self._connect() as client:
                known = [Known(w["name"], w["pool"], w["url"], w["state"]) for w in await client.workers()]
                self._failures.pop("router", None)
                self._forget(self._table.pods)
                for many in _batches(changes(self._table.pods, known, self._added, self._drained, self._prefix)):
                    await self._make_all(client, many)
        except (LaunchError, UserError) as e:
            self._failed("router", str(e))
            return False
        return True

    async def _make_all(self, client: RouterClient, many: Sequence[Change]) -> None:
        """Add many workers in one change of the fleet, since each change costs time that grows with the fleet.

        Where the router refuses one of them, each is tried by itself.

        Raises:
            LaunchError: the router does not answer.
        """
        pods = [change.pod for change in many if isinstance(change, Add)]
        if len(pods) > 1:
            try:
                await client.add_workers(
                    [FleetWorker(name=pod.name, pool=pod.pool, url=pod.url, key=self._key) for pod in pods]
                )
            except UserError:
                pass
            else:
                for pod in pods:
                    self._note_added(pod)
                return
        for change in many:
            await self._make(client, change)

    def _note_added(self, pod: Pod) -> None:
        self._added[pod.name] = pod.uid
        self._failures.pop(pod.name, None)
        self._report(f"{pod.name}: {_DONE[Add]}")

    async def _make(self, client: RouterClient, change: Change) -> None:
        """Make one change. One that the router refuses is due again in the next round.

        Raises:
            LaunchError: the router does not answer.
        """
        name = change.pod.name if isinstance(change, Add | Drain) else change.name
        try:
            if isinstance(change, Add):
                await client.add_worker(name, change.pod.pool, change.pod.url, self._key)
                self._note_added(change.pod)
                return
            if isinstance(change, Drain):
                await client.change_worker(name, "drain", move=True)
                self._drained[name] = change.pod.uid
            else:
                await client.remove_worker(name, force=change.force)
        except UserError as e:
            # the worker's place in the fleet differs from try to try
            self._failed(name, f"{name}: {_PLACE.sub('', str(e))}")
            return
        self._failures.pop(name, None)
        self._report(f"{name}: {_DONE[type(change)]}")

    def _failed(self, what: str, reason: str) -> None:
        """Report a failure, once for as long as it has this reason."""
        if self._failures.get(what) != reason:
            self._failures[what] = reason
            self._report(reason)

    def _forget(self, pods: dict[str, Pod]) -> None:
        for noted in (self._added, self._drained, self._failures):
            for name in [name for name in noted if name not in pods and name not in ("watch", "router")]:
                del noted[name]


def _batches(due: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Yield changes in their order: additions that follow each other together, every other change by itself."""
    for adds, group in groupby(due, key=lambda change: isinstance(change, Add)):
        found = list(group)
        size = _BATCH if adds else 1
        yield from (found[at : at + size] for at in range(0, len(found), size))


_DONE = {Add: "added", Drain: "drains, since its pod is being deleted", Remove: "removed, since its pod is gone"}
