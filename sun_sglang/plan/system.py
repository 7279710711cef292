"""A serving system: pools of workers, tasks as pairs of pools, and the settings of the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sun_sglang.contracts.scheme import Side
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.topology import Policies, Role


@dataclass(frozen=True)
class PlannedPool:
    """A pool.

    Attributes:
        role: the role of its workers.
        workers: number of workers.
        costs: of each worker.
        gpus: GPUs of each worker.
    """

    role: Role
    workers: int
    costs: CostModel
    gpus: int = 1


@dataclass(frozen=True)
class PlannedTask:
    """A task: its two pools, and its share of the router.

    Attributes:
        name: its name.
        prefill: name of its prefill pool.
        decode: name of its decode pool.
        weight: its share while tasks wait.
        max_requests: most answers in flight; None is no cap.
        max_tokens: most expected work in flight, in tokens; None is no cap.
    """

    name: str
    prefill: str
    decode: str
    weight: float = 1.0
    max_requests: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Admission:
    """The limits of the router on all tasks together; see `topology.Router`."""

    max_requests: int | None = None
    max_tokens: int | None = None
    queue_size: int = 1024
    queue_timeout: float = 30.0


@dataclass(frozen=True)
class System:
    """A deployment.

    Attributes:
        name: its name in tables.
        pools: the pools by name.
        tasks: the tasks, in the order in which arrivals number them.
        policies: the router's policies.
        admission: the router's limits.
        kv_bytes: bytes of KV of one token, which are transferred.
        first_token: the side that makes the first token.
        page_size: tokens of a page of the prefix caches.
    """

    name: str
    pools: Mapping[str, PlannedPool]
    tasks: Sequence[PlannedTask]
    policies: Policies = field(default_factory=Policies)
    admission: Admission = field(default_factory=Admission)
    kv_bytes: int = 131072
    first_token: Side = "prefill"
    page_size: int = 1

    def names(self, role: Role) -> list[str]:
        """Return the names of the pools of a role."""
        return [name for name, pool in self.pools.items() if pool.role == role]

    def workers(self, role: Role) -> int:
        """Return the number of workers of a role."""
        return sum(pool.workers for pool in self.pools.values() if pool.role == role)

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return sum(pool.workers * pool.gpus for pool in self.pools.values())

    def resized(self, workers: Mapping[str, int]) -> System:
        """Return the system with other numbers of workers in these pools."""
        resized = {name: replace(self.pools[name], workers=count) for name, count in workers.items()}
        return replace(self, pools={**self.pools, **resized})


def arranged(
    name: str, tasks: Sequence[str], prefill: PlannedPool, decode: PlannedPool, *, shares: frozenset[Role]
) -> System:
    """Return a system whose tasks share pools, or have pools of their own.

    Args:
        name: its name.
        tasks: names of the tasks.
        prefill: a prefill pool: that of all tasks, or one like that of each task.
        decode: a decode pool, likewise.
        shares: the roles whose pool all tasks share: decode with SUN, prefill with PrefillShare, none where tasks are
            isolated.
    """
    like: dict[Role, PlannedPool] = {"prefill": prefill, "decode": decode}
    pools: dict[str, PlannedPool] = {}
    for role, pool in like.items():
        names = ["shared"] if role in shares else tasks
        pools |= {f"{role}-{owner}": pool for owner in names}
    owners = {task: {role: "shared" if role in shares else task for role in like} for task in tasks}
    made = tuple(
        PlannedTask(task, f"prefill-{owner['prefill']}", f"decode-{owner['decode']}") for task, owner in owners.items()
    )
    return System(name, pools, made)
