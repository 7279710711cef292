"""Choose the pair of workers that serves a request. Pure, but for the RNG that it is given."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from sun_sglang.router.scheduling.affinity import CacheAffinity, PrefixAffinity
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.policies import LeastRequests, LeastTokens, Policy, PowerOfTwo, Random, RoundRobin
from sun_sglang.router.workers.paths import Pair
from sun_sglang.topology import Policies


class PairSelector:
    """A policy for each role.

    Attributes:
        needs_keys: some policy looks at what a prompt begins with.
    """

    def __init__(self, policies: Policies, rng: random.Random) -> None:
        self._prefill = make_policy(policies.prefill, rng)
        self._decode = make_policy(policies.decode, rng)
        self.needs_keys = any(isinstance(p, CacheAffinity | PrefixAffinity) for p in (self._prefill, self._decode))

    def select(
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
