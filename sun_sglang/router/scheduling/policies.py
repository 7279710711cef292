"""The routing policies by name, and those of them that read nothing but loads. Pure, but for the given RNG."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from sun_sglang.router.scheduling.affinity import (
    CacheAffinity,
    PrefixAffinity,
    StayRule,
    within_load_bound,
    worth_waiting,
)
from sun_sglang.router.scheduling.policy_protocol import Policy
from sun_sglang.router.scheduling.prefix_keys import PrefixKeys
from sun_sglang.router.scheduling.ranked_workers import Rank, RankedWorkers, by_requests, by_tokens
from sun_sglang.router.workers.worker import Worker
from sun_sglang.topology import Role


def least(workers: Sequence[Worker], rank: Callable[[Worker], Rank]) -> Worker:
    """Return the worker with the smallest rank, of equal ones the first."""
    return workers.least(rank) if isinstance(workers, RankedWorkers) else min(workers, key=rank)


class LeastTokens:
    """The worker with the fewest outstanding tokens, then the fewest requests, then the one picked longest ago."""

    reads_prefix: ClassVar[bool] = False

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        return least(workers, by_tokens)


class LeastRequests:
    """The worker with the fewest outstanding requests, then the fewest tokens, then the one picked longest ago."""

    reads_prefix: ClassVar[bool] = False

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        return least(workers, by_requests)


class RoundRobin:
    """The worker picked longest ago, for whichever task."""

    reads_prefix: ClassVar[bool] = False

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        return min(workers, key=_by_last_pick)


class Random:
    """Any worker, all with equal probability."""

    reads_prefix: ClassVar[bool] = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        return self._rng.choice(workers)


class PowerOfTwo:
    """Of two random workers the one with fewer outstanding tokens (Mitzenmacher, 2001)."""

    reads_prefix: ClassVar[bool] = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        return min(workers if len(workers) < 2 else self._rng.sample(workers, 2), key=by_tokens)


# A new policy is one line here, and its name in `topology.py`.
POLICIES: Mapping[str, Callable[[random.Random, StayRule], Policy]] = MappingProxyType(
    {
        "least_tokens": lambda _rng, _stays: LeastTokens(),
        "least_requests": lambda _rng, _stays: LeastRequests(),
        "power_of_two": lambda rng, _stays: PowerOfTwo(rng),
        "round_robin": lambda _rng, _stays: RoundRobin(),
        "random": lambda rng, _stays: Random(rng),
        "cache_affinity": lambda _rng, stays: CacheAffinity(LeastTokens(), stays),
        "prefix_affinity": lambda _rng, _stays: PrefixAffinity(LeastTokens()),
    }
)
_STAYS: Mapping[Role, StayRule] = MappingProxyType({"prefill": worth_waiting, "decode": within_load_bound})


def make_policy(name: str, role: Role, rng: random.Random) -> Policy:
    """Return a policy for the workers of a role, by its name in the topology file, with no memory yet."""
    return POLICIES[name](rng, _STAYS[role])


def _by_last_pick(worker: Worker) -> int:
    return worker.last_pick
