"""The router's own file: the tasks, their pools, and where every worker listens. The launcher writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from sun_sglang.contracts.worker_key import bearer
from sun_sglang.errors import UserError
from sun_sglang.strict import Strict, first_invalid
from sun_sglang.topology import PoolName, Role, Router, Task, TaskName

# a name in ASCII, an IPv4 or an IPv6 address
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?|[0-9a-f:]+(%[A-Za-z0-9]+)?")


# the router's processes show each other their load on each worker in a table of this size
MAX_WORKERS = 4096


class FleetError(UserError):
    """The fleet file cannot be read or is wrong; the message names the place."""


class FleetPool(Strict):
    """What the router has to know of a pool: its role, and the name of its model for humans."""

    role: Role
    model: str = Field(min_length=1)


class FleetWorker(Strict):
    """One worker.

    Attributes:
        name: unique in the fleet.
        pool: the pool it belongs to.
        url: its HTTP server.
        draining: it takes no new requests.
        key: the worker key that it requires; None where it requires none. Never shown.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
    pool: PoolName
    url: str
    draining: bool = False
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~+/=-]+$", min_length=16, max_length=256)] | None = (
        Field(default=None, repr=False)
    )

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        parts = urlsplit(url)
        # `urlsplit` leaves out what it does not like
        if not url.isprintable():
            raise ValueError("it has characters that no URL has")
        is_plain = parts.path.strip("/") == parts.query == parts.fragment == "" and "@" not in parts.netloc
        if parts.scheme not in ("http", "https") or not is_plain or not _HOST.fullmatch(parts.hostname or ""):
            raise ValueError("write it as http://HOST:PORT")
        if parts.port == 0:
            raise ValueError("no worker listens on port 0")
        return url.rstrip("/")

    @property
    def headers(self) -> dict[str, str]:
        """Headers that every request to this worker needs."""
        return bearer(self.key)

    @property
    def host(self) -> str:
        """The host that decode workers meet this worker at."""
        host = urlsplit(self.url).hostname
        assert host is not None, "checked when the file was read"
        return host


class Fleet(Strict):
    """Everything that the router is told at its start.

    Attributes:
        tasks: as in the topology.
        pools: their roles and models.
        workers: all of them.
        router: as in the topology.
        admin_key_file: holds the launcher's own admin key, which counts where the deployment has keys.
    """

    tasks: dict[TaskName, Task] = Field(min_length=1)
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
    """Read and check a fleet file.

    Raises:
        FleetError: the first thing wrong, in one line.
    """
    try:
        return Fleet.model_validate_json(path.read_bytes())
    except OSError as e:
        raise FleetError(f"{path}: cannot be read ({e.strerror or e})") from e
    except ValidationError as e:
        raise FleetError(f"{path}: {first_invalid(e, Fleet).describe()}") from e
