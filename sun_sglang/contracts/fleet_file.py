"""`fleet.json`: the tasks, their pools, and the address of every worker.

Written by the launcher (`launch/supervision`) and by the router after a change over its API; read by the router
(`router/__main__.py`, `router/workers/fleet_store.py`). `launch/router_access.py` reads `router.tls_cert` alone,
without the checks of the rest.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.module import ModuleRef, TaskWeights
from sun_sglang.contracts.worker_key import bearer
from sun_sglang.errors import UserError
from sun_sglang.files.private_file import write_private
from sun_sglang.strict import Strict, first_invalid
from sun_sglang.topology import PoolName, Role, Router, TaskName, TaskSettings

FLEET_FILE = "fleet.json"
# A name in ASCII, an IPv4 or an IPv6 address.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?|[0-9a-f:]+(%[A-Za-z0-9]+)?")
# The router's processes share their load on each worker in a table of this size.
MAX_WORKERS = 4096


class FleetError(UserError):
    """The fleet file cannot be read, or a value in it is wrong; the message names the place in the file."""


class FleetPool(Strict):
    """A pool.

    Attributes:
        role: the role of its workers.
        model: the name of its model, for people.
        wanted_workers: the number of workers that it is to have, for the metrics of a pool that sizes itself.
    """

    role: Role
    model: str = Field(min_length=1)
    wanted_workers: int | None = Field(default=None, ge=0, le=MAX_WORKERS)


class FleetWorker(Strict):
    """One worker.

    Attributes:
        name: unique in the fleet.
        pool: name of its pool.
        url: address of its HTTP server.
        draining: whether it takes no new requests.
        moving: whether the answers of a draining decode worker go on elsewhere, where another worker can.
        key: the worker key that it requires; None if it requires none. No message and no page shows it.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
    pool: PoolName
    url: str
    draining: bool = False
    moving: bool = False
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~+/=-]+$", min_length=16, max_length=256)] | None = (
        Field(default=None, repr=False)
    )

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        parts = urlsplit(url)
        # `urlsplit` drops some control characters silently
        if not url.isprintable():
            raise ValueError("a URL holds no such characters")
        is_plain = parts.path.strip("/") == parts.query == parts.fragment == "" and "@" not in parts.netloc
        if parts.scheme not in ("http", "https") or not is_plain or not _HOST.fullmatch(parts.hostname or ""):
            raise ValueError("write it as http://HOST:PORT")
        if parts.port == 0:
            raise ValueError("no worker listens on port 0")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _drains(self) -> FleetWorker:
        if self.moving and not self.draining:
            raise ValueError("moving: only a worker that drains gives its answers to others")
        return self

    @property
    def headers(self) -> dict[str, str]:
        """Headers for every request to this worker."""
        return bearer(self.key)

    @property
    def host(self) -> str:
        """The host under which decode workers reach this worker."""
        host = urlsplit(self.url).hostname
        assert host is not None, "checked when the file was read"
        return host


class FleetTask(TaskSettings):
    """A task, with its adapter or module as it was when the task was added or updated.

    Attributes:
        adapter: the adapter that the prefill pool applies to its prompts; None for none.
        module: the module that prefills its prompts in place of the pool's model; None for the pool's model.
    """

    adapter: AdapterRef | None = None
    module: ModuleRef | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> FleetTask:
        if self.adapter is not None and self.module is not None:
            raise ValueError("a task has an adapter or a module of its own, and not both")
        return self

    @property
    def weights(self) -> TaskWeights | None:
        """Its own weights on its prefill pool; None for the pool's model as it is."""
        return self.adapter if self.module is None else self.module


class Fleet(Strict):
    """The content of the file.

    Attributes:
        tasks: the tasks.
        pools: roles and models of the pools.
        workers: the workers; the launcher's plan holds none, since addresses come from the place.
        router: the router's settings, as in the topology file.
        admin_key_file: path of a file with the launcher's own admin key, for deployments with API keys.
    """

    tasks: dict[TaskName, FleetTask] = Field(min_length=1)
    pools: dict[PoolName, FleetPool] = Field(min_length=1)
    workers: tuple[FleetWorker, ...]
    router: Router = Field(default_factory=Router)
    admin_key_file: str | None = None

    @model_validator(mode="after")
    def _references(self) -> Fleet:
        for name, task in self.tasks.items():
            for role, pool in (("prefill", task.prefill), ("decode", task.decode)):
                if pool not in self.pools:
                    raise ValueError(f"tasks.{name}.{role}: no pool is named `{pool}`")
                if self.pools[pool].role != role:
                    raise ValueError(f"tasks.{name}.{role}: pool `{pool}` is a {self.pools[pool].role} pool")
        if len(self.workers) > MAX_WORKERS:
            raise ValueError(f"workers: {len(self.workers)} are over {MAX_WORKERS}, the most that a router serves")
        names: set[str] = set()
        for i, worker in enumerate(self.workers):
            if worker.pool not in self.pools:
                raise ValueError(f"workers.{i}.pool: no pool is named `{worker.pool}`")
            if worker.name in names:
                raise ValueError(f"workers.{i}.name: `{worker.name}` is given twice")
            names.add(worker.name)
        return self


def load_fleet(path: Path) -> Fleet:
    """Return the content of a fleet file.

    Raises:
        FleetError: the file cannot be read, or a value is wrong; the message names the first one, in one line.
    """
    try:
        return Fleet.model_validate_json(path.read_bytes())
    except OSError as e:
        raise FleetError(f"{path}: cannot be read ({e.strerror or e})") from e
    except ValidationError as e:
        raise FleetError(f"{path}: {first_invalid(e, Fleet).describe()}") from e


def write_fleet(path: Path, fleet: Fleet) -> None:
    """Replace a fleet file, in one step, with one that only this user can read: it holds the workers' keys.

    Raises:
        OSError: the file cannot be written.
    """
    write_private(path, fleet.model_dump_json(indent=2).encode())
