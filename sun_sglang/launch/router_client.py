"""What the router says of tasks and workers, read from its `/tasks`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp
from pydantic import BaseModel, ConfigDict

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.router_access import RouterAccess

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
# of a change, which a person asked for and nobody asks for again: a busy machine is no reason to say that it failed
_CALL_TIMEOUT = aiohttp.ClientTimeout(total=30.0)


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class WorkerReport(_Reply):
    """A worker as the router sees it: `state` is `absent`, `registering`, `ready`, `draining` or `refused`."""

    name: str
    state: str
    reason: str
    incarnation: str | None
    in_flight: int


class PoolReport(_Reply):
    """One side of a task."""

    pool: str
    workers: tuple[WorkerReport, ...]


class UnprovenPath(_Reply):
    """A path between two workers over which no canary went.

    Attributes:
        prefill: name of the prefill worker.
        decode: name of the decode worker.
        why: why the last canary failed, or why none is sent.
        times: how many canaries in a row failed so.
        refused: the two workers may not be paired, so none is sent.
    """

    prefill: str
    decode: str
    why: str
    times: int
    refused: bool = False


class TaskReport(_Reply):
    """One task: whether it can be served, and over how many proven paths."""

    ready: bool
    prefill: PoolReport
    decode: PoolReport
    paths: tuple[dict[str, Any], ...]
    unproven_paths: tuple[UnprovenPath, ...]
    in_flight: int


class TasksReport(_Reply):
    """All of `/tasks`."""

    ready: bool
    draining: bool
    tasks: dict[str, TaskReport]

    @property
    def workers(self) -> dict[str, WorkerReport]:
        """Every worker that a task names."""
        sides = (side for task in self.tasks.values() for side in (task.prefill, task.decode))
        return {worker.name: worker for side in sides for worker in side.workers}

    @property
    def all_ready(self) -> bool:
        """Whether every worker is ready and every path between them carried a canary."""
        return self.ready and not self.unproven_paths and not self._unready

    @property
    def missing(self) -> list[str]:
        """What keeps it from being ready, a line each: workers that are not, paths whose canary failed and why."""
        workers = [f"`{w.name}` is {w.state}" + (f" ({w.reason})" if w.reason else "") for w in self._unready]
        paths = {(p.prefill, p.decode, p.why) for p in self.unproven_paths}
        return workers + [
            f"no canary from `{a}` to `{b}`" + (f" ({why})" if why else "") for a, b, why in sorted(paths)
        ]

    @property
    def unproven_paths(self) -> list[UnprovenPath]:
        """The paths of all tasks that no canary went over."""
        return [path for task in self.tasks.values() for path in task.unproven_paths]

    @property
    def _unready(self) -> list[WorkerReport]:
        return [w for w in self.workers.values() if w.state != "ready"]

    @property
    def refused(self) -> list[tuple[str, str]]:
        """Workers that the router will not use, with its reasons."""
        return [(w.name, w.reason) for w in self.workers.values() if w.state == "refused"]


class RouterClient:
    """Asks a router; one session."""

    def __init__(self, url: str, access: RouterAccess | None = None) -> None:
        self._url = url
        self._access = access or RouterAccess()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._access.ssl)
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, headers=self._access.headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask the router's admin API for something.

        Raises:
            LaunchError: the router does not answer.
            UserError: it refuses; its own words.
        """
        assert self._session is not None
        try:
            asked = self._session.request(method, f"{self._url}{path}", json=body, timeout=_CALL_TIMEOUT)
            async with asked as reply:
                said: dict[str, Any] = await reply.json()
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise LaunchError(f"the router at {self._url} does not answer: {e}") from e
        if "error" in said:
            raise UserError(said["error"]["message"])
        return said

    async def tasks(self) -> TasksReport | None:
        """What the router says now; None while it does not answer."""
        assert self._session is not None
        try:
            async with self._session.get(f"{self._url}/tasks") as reply:
                return TasksReport.model_validate(await reply.json()) if reply.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
