"""A deployment without processes: a prefill worker `p0`, a decode pool, and a router that proves at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from sun_sglang.contracts.tasks_report import (
    PoolReport,
    ProvenPath,
    TaskReport,
    TasksReport,
    UnprovenPath,
    WorkerReport,
)
from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.rolling_restart.launched import Launched
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import Phase, ProcessState
from sun_sglang.launch.supervision.readiness import Limits


class FakeProcess:
    """A supervised process; `on_restart` decides how its next start goes."""

    def __init__(self, name: str, pool: str, deployment: FakeDeployment) -> None:
        self.state = ProcessState(
            name=name,
            pool=pool,
            role="decode",
            phase=Phase.RUNNING,
            pid=1,
            url=f"http://{name}",
            log=Path(f"/logs/{name}.log"),
            restarts=0,
        )
        self.early_ends = 0
        self.refusal: str | None = None
        self.restart_pending = False
        self._deployment = deployment

    async def restart(self, grace: float) -> None:
        self._deployment.calls.append(f"restart {self.state.name}")
        self.early_ends, self.refusal = 0, None
        self._deployment.on_restart(self)


class FakeDeployment:
    """Workers, and a client of a router that serves them.

    Attributes:
        calls: the changes so far, in order.
        incarnations: the start of each worker that the router knows; None while the worker is absent.
        disagreed: workers that the router's processes report differently.
        drained: workers out of the rotation.
        in_flight: requests of each worker.
        unproven: workers whose path is not proven.
        refusal: why the router refuses the unproven paths; empty where it does not.
        on_report: called before each report.
        on_restart: called with a process that is restarted.
        on_change: called with each change before it is made.
    """

    def __init__(self, *workers: str) -> None:
        self.calls: list[str] = []
        self.incarnations: dict[str, str | None] = {name: f"{name} 0" for name in ("p0", *workers)}
        self.pools = {name: "p" if name == "p0" else "d" for name in self.incarnations}
        self.disagreed: set[str] = set()
        self.drained: set[str] = set()
        self.in_flight: dict[str, int] = {}
        self.unproven: set[str] = set()
        self.refusal = ""
        self.on_report: Callable[[], None] = lambda: None
        self.on_restart: Callable[[FakeProcess], None] = self.come_back
        self.on_change: Callable[[str], None] = lambda _: None
        self.processes = {name: FakeProcess(name, self.pools[name], self) for name in self.incarnations}
        self.phase = Phase.READY

    @property
    def launched(self) -> Launched:
        return Launched(
            self.processes,
            lambda: self.phase,
            lambda: cast("RouterClient", self),
            Limits(ready_timeout=60),
            KvTransfer(backend="x", reason="y"),
            Path("/logs"),
        )

    def come_back(self, process: FakeProcess) -> None:
        """Let a worker serve with its next start."""
        restarts = process.state.restarts + 1
        process.state = process.state.model_copy(update={"restarts": restarts})
        self.incarnations[process.state.name] = f"{process.state.name} {restarts}"

    def leave(self, name: str) -> None:
        """Remove a worker from the router's fleet."""
        del self.incarnations[name]

    # --- the client of the router -----------------------------------------------------------------------------------

    async def __aenter__(self) -> FakeDeployment:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def workers(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "pool": self.pools[name], "url": f"http://{name}", "state": "ready"}
            for name in self.incarnations
        ]

    async def change_worker(self, name: str, action: str, *, move: bool = False) -> None:
        self.on_change(action)
        self.calls.append(f"{action}{' with a move' if move else ''} {name}")
        if action == "drain":
            self.drained.add(name)
        else:
            self.drained.discard(name)

    async def tasks(self) -> TasksReport | None:
        self.on_report()
        # the answer of a router takes time
        await asyncio.sleep(0)
        return self.report()

    def report(self) -> TasksReport:
        """Return the router's report of one task."""
        decode = [name for name in self.incarnations if self.pools[name] == "d"]
        rotation = [n for n in decode if self.incarnations[n] is not None and n not in self.drained]
        task = TaskReport(
            ready=True,
            prefill=self._pool("p", ["p0"]),
            decode=self._pool("d", decode),
            paths=tuple(ProvenPath(prefill="p0", decode=n) for n in rotation if n not in self.unproven),
            unproven_paths=tuple(
                UnprovenPath(prefill="p0", decode=n, why=self.refusal, times=0, refused=bool(self.refusal))
                for n in rotation
                if n in self.unproven
            ),
            queued=0,
            in_flight=0,
            namespace=None,
        )
        return TasksReport(ready=True, draining=False, tasks={"math": task})

    def _pool(self, name: str, workers: Iterable[str]) -> PoolReport:
        return PoolReport(pool=name, model="m", workers=tuple(self._worker(one) for one in workers))

    def _worker(self, name: str) -> WorkerReport:
        proven = "registering" if name in self.unproven else "ready"
        state = "draining" if name in self.drained else proven
        return WorkerReport(
            name=name,
            url=f"http://{name}",
            state="absent" if self.incarnations[name] is None else state,
            reason="",
            incarnation=self.incarnations[name],
            in_flight=self.in_flight.get(name, 0),
            agreed=name not in self.disagreed,
        )
