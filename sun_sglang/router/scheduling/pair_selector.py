"""Select the pair of workers that serves a request. Pure, but for the RNG of the policies."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from sun_sglang.router.scheduling.adapter_affinity import prefer_resident
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.module_affinity import prefer_module
from sun_sglang.router.scheduling.pair_grid import PairGrid
from sun_sglang.router.scheduling.policies import make_policy
from sun_sglang.router.scheduling.prefix_keys import NO_KEYS, PrefixKeys
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.topology import Policies


class PairSelector:
    """A policy for each role. The decode worker is picked first, and then one of its prefill workers.

    In a pool with modules, prefill workers go first that need the fewest changes between modules. Of a task with an
    adapter, those go first that hold the adapter in a slot.

    Attributes:
        needs_keys: whether a policy reads the beginning of a prompt.
    """

    def __init__(self, policies: Policies, rng: random.Random) -> None:
        self._prefill = make_policy(policies.prefill, "prefill", rng)
        self._decode = make_policy(policies.decode, "decode", rng)
        self.needs_keys = self._prefill.reads_prefix or self._decode.reads_prefix

    def select(
        self,
        pairs: Sequence[Pair],
        cost: Cost,
        keys: PrefixKeys = NO_KEYS,
        avoid: Set[str] = frozenset(),
        holder: str = "",
    ) -> Pair | None:
        """Return the pair that serves a request; None if there is no pair.

        Args:
            pairs: the usable pairs of the task, which have its own weights. A `PairGrid` has the same result as the
                list of its pairs, and takes a time that hardly grows with the workers.
            cost: expected work of the request on each side.
            keys: hashes of the prompt's beginnings.
            avoid: names of workers that failed this request before; they are selected only if every pair has as many.
            holder: incarnation of the prefill worker that has the prompt in its cache, which is preferred; empty for
                none.
        """
        if len(pairs) < 2:
            return pairs[0] if pairs else None
        if isinstance(pairs, PairGrid) and not avoid and not holder:
            return self._select_from_grid(pairs, cost, keys)
        if avoid:
            fewest = min(_failed(pair, avoid) for pair in pairs)
            pairs = [pair for pair in pairs if _failed(pair, avoid) == fewest]
        if holder:
            pairs = [pair for pair in pairs if pair.prefill.incarnation == holder] or pairs
        pairs = prefer_resident(prefer_module(pairs, cost.prefill), cost.prefill)
        # a dict and not a set: with the same loads and the same RNG the selection is the same
        decode = self._decode.pick(list(dict.fromkeys(pair.decode for pair in pairs)), cost.decode, keys)
        prefill = self._prefill.pick([pair.prefill for pair in pairs if pair.decode is decode], cost.prefill, keys)
        return Pair(prefill, decode, pairs[0].weights)

    def _select_from_grid(self, grid: PairGrid, cost: Cost, keys: PrefixKeys) -> Pair:
        """Return what `select` returns for the list of the pairs; all pairs have a proven path."""
        decode = self._decode.pick(grid.decodes, cost.decode, keys)
        prefills: Sequence[Worker] = grid.prefills
        card = prefills[0].card
        if grid.weights is not None or (card is not None and card.modules is not None):
            pairs: Sequence[Pair] = [Pair(prefill, decode, grid.weights) for prefill in prefills]
            prefills = [pair.prefill for pair in prefer_resident(prefer_module(pairs, cost.prefill), cost.prefill)]
        return Pair(self._prefill.pick(prefills, cost.prefill, keys), decode, grid.weights)


def _failed(pair: Pair, avoid: Set[str]) -> int:
    return (pair.prefill.name in avoid) + (pair.decode.name in avoid)
