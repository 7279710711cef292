"""Who serves a request. Pure: it looks at each worker's load, at what the prompt begins with, and at its own RNG."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from typing import Protocol

from sun_sglang.router.dispatch.legs import Cost
from sun_sglang.router.scheduling.affinity import CacheAffinity, PrefixAffinity
from sun_sglang.router.workers.registry import Pair, Worker
from sun_sglang.topology import Policies


class Policy(Protocol):
    """Chooses one worker of several that may all serve."""

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """The worker that serves a request.

        Args:
            workers: the candidates, at least one.
            cost: tokens of work that the request brings.
            keys: what its prompt begins with, as `prefix_keys` gives it.
        """


class LeastTokens:
    """Fewest outstanding tokens, then fewest requests; what is left goes to the worker chosen longest ago."""

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        return min(workers, key=_by_tokens)


class LeastRequests:
    """Fewest outstanding requests, then fewest tokens."""

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        return min(workers, key=_by_requests)


class RoundRobin:
    """The worker chosen longest ago, by whichever task."""

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        return min(workers, key=_by_turn)


class Random:
    """Any, with equal chances."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        return self._rng.choice(workers)


class PowerOfTwo:
    """Two at random, and of them the one with fewer tokens (Mitzenmacher, 2001)."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        return min(workers if len(workers) < 2 else self._rng.sample(workers, 2), key=_by_tokens)


class Chooser:
    """A policy for each role.

    Attributes:
        needs_keys: some policy looks at what a prompt begins with.
    """

    def __init__(self, policies: Policies, rng: random.Random) -> None:
        self._prefill = make_policy(policies.prefill, rng)
        self._decode = make_policy(policies.decode, rng)
        self.needs_keys = any(isinstance(p, CacheAffinity | PrefixAffinity) for p in (self._prefill, self._decode))

    def choose(
        self, pairs: Sequence[Pair], cost: Cost, keys: Sequence[int] = (), avoid: Set[str] = frozenset()
    ) -> Pair | None:
        """The pair that serves a request; None if there is no pair.

        Args:
            pairs: the usable pairs of the task.
            cost: what the request weighs on each side.
            keys: what its prompt begins with.
            avoid: names of workers that failed this request before; taken only where there is no other way.
        """
        if len(pairs) < 2:
            return pairs[0] if pairs else None
        if avoid:
            fewest = min(_failed(pair, avoid) for pair in pairs)
            pairs = [pair for pair in pairs if _failed(pair, avoid) == fewest]
        # a dict and not a set: with the same loads and the same RNG the choice is the same
        decode = self._decode.pick(list(dict.fromkeys(pair.decode for pair in pairs)), cost.decode, keys)
        prefill = self._prefill.pick([pair.prefill for pair in pairs if pair.decode is decode], cost.prefill, keys)
        return Pair(prefill, decode)


def make_policy(name: str, rng: random.Random) -> Policy:
    """A policy by its name in the topology file, with no memory yet."""
    match name:
        case "least_tokens":
            return LeastTokens()
        case "least_requests":
            return LeastRequests()
        case "power_of_two":
            return PowerOfTwo(rng)
        case "round_robin":
            return RoundRobin()
        case "random":
            return Random(rng)
        case "cache_affinity":
            return CacheAffinity(LeastTokens())
        case "prefix_affinity":
            return PrefixAffinity(LeastTokens())
    raise AssertionError(f"the topology lets no policy `{name}` pass")


def _failed(pair: Pair, avoid: Set[str]) -> int:
    return (pair.prefill.name in avoid) + (pair.decode.name in avoid)


def _by_tokens(worker: Worker) -> tuple[int, int, int]:
    return worker.load_tokens, worker.load_requests, worker.picked


def _by_requests(worker: Worker) -> tuple[int, int, int]:
    return worker.load_requests, worker.load_tokens, worker.picked


def _by_turn(worker: Worker) -> int:
    return worker.picked
