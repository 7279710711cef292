"""Policies that send prompts with equal beginnings to one worker, within a bound on its load. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from sun_sglang.router.scheduling.policy_protocol import Policy
from sun_sglang.router.workers.worker import Worker

# A worker may have this many times the mean load before the prompts that belong to it go to other workers: c in
# consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018; arXiv:1608.01350).
LOAD_BOUND = 1.25
REMEMBERED = 1 << 16
# A prefill worker may be ahead of the least loaded one by this many times the prompt before the prompts that begin like
# it go elsewhere, however low the mean load is. A prompt's load counts all of its tokens, and a hit computes a small
# part of them: with three quarters in the cache, four prompts are computed in the time of one that finds nothing.
PROMPTS_AHEAD = 4
_64_BITS = (1 << 64) - 1


class CacheAffinity:
    """Sends a conversation back to the worker that holds its prefix, unless that worker's load is over the bound.

    It remembers the workers of the last `remembered` prompts, so its memory is bounded.

    Args:
        fallback: picks where no worker holds the prefix.
        remembered: number of prompts.
    """

    reads_prefix: ClassVar[bool] = True

    def __init__(self, fallback: Policy, remembered: int = REMEMBERED) -> None:
        self._fallback = fallback
        self._remembered = remembered
        self._holders: OrderedDict[int, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        worker = self._holder(workers, cost, keys)
        if worker is None:
            worker = self._fallback.pick(workers, cost, keys)
        if keys:
            # the next turn begins with all of this one, so the longest key finds it
            self._holders[keys[-1]] = worker.name
            self._holders.move_to_end(keys[-1])
            if len(self._holders) > self._remembered:
                self._holders.popitem(last=False)
        return worker

    def _holder(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker | None:
        for key in reversed(keys):
            name = self._holders.get(key)
            if name is None:
                continue
            worker = next((w for w in workers if w.name == name), None)
            if worker is not None and worker.load.total_tokens < load_bound(workers, cost):
                return worker
        return None


class PrefixAffinity:
    """Sends prompts with equal beginnings to one worker, and to the next in their ranking while it has too much to do.

    A worker has too much to do if it is over the bound, and ahead of the least loaded worker by `PROMPTS_AHEAD` of the
    prompts. Where few prompts are in flight, the bound alone is below one prompt: a conversation would move, and be
    computed again, whenever its worker has one other prompt.

    Each prefix ranks the workers by a hash of both (rendezvous hashing; Thaler and Ravishankar, 1998), so that a worker
    that comes or goes moves its own prefixes alone, and the policy stores nothing.

    Args:
        fallback: picks for a prompt without keys.
    """

    reads_prefix: ClassVar[bool] = True

    def __init__(self, fallback: Policy) -> None:
        self._fallback = fallback

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        if not keys:
            return self._fallback.pick(workers, cost, keys)
        least = min(w.load.total_tokens for w in workers)
        bound = max(load_bound(workers, cost), least + PROMPTS_AHEAD * max(1, cost))
        # never empty: the least loaded worker is below the bound
        free = [w for w in workers if w.load.total_tokens < bound]
        return max(free, key=lambda w: (_mix(keys[0] ^ w.hash), w.name))


def load_bound(workers: Sequence[Worker], cost: int) -> float:
    """Return the outstanding tokens from which a worker is not preferred for its cache any more."""
    return LOAD_BOUND * (sum(w.load.total_tokens for w in workers) + max(1, cost)) / len(workers)


def _mix(x: int) -> int:
    """Return SplitMix64's finalizer of `x`: every bit of the result depends on every bit of `x`."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return x ^ (x >> 31)
