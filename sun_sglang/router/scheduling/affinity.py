"""Policies that send prompts with equal beginnings to one worker, within a bound on its load. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from sun_sglang.router.scheduling.policy_protocol import Policy
from sun_sglang.router.scheduling.prefix_keys import PrefixKeys
from sun_sglang.router.workers.worker import Worker

# A worker may have this many times the mean load before the prompts that belong to it go to other workers: c in
# consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018; arXiv:1608.01350).
LOAD_BOUND = 1.25
REMEMBERED = 1 << 16
# A move makes the fleet compute what a worker holds, and so delays the prompts of others as much as its own.
MOVE_COST = 2
# A prompt takes at least this part of the time that all of it would take: its KV is transferred, however much of it was
# in the cache. So a conversation moves when its worker is ahead by 2 x 16 of its prompts at the latest.
LEAST_SHARE = 1 / 16
# A prefill worker may be ahead of the least loaded one by this many times the prompt before the prompts that begin like
# it go elsewhere, however low the mean load is. A prompt's load counts all of its tokens, and a hit computes a small
# part of them: with three quarters in the cache, four prompts are computed in the time of one that finds nothing.
PROMPTS_AHEAD = 4
_64_BITS = (1 << 64) - 1


class _Holder(NamedTuple):
    """The start of the worker that served a prompt, and the estimated length of the prompt in tokens."""

    incarnation: str
    tokens: int


StayRule = Callable[[Worker, Sequence[Worker], int, int], bool]
"""Tells whether a conversation stays with its worker: that worker, all of them, its prompt, and what is held of it."""


class CacheAffinity:
    """Sends a conversation back to the worker that holds its prefix, unless that worker has too much to do.

    A conversation that moves stays with its new worker. The policy remembers the workers of the last `remembered`
    prompts, so its memory is bounded.

    Args:
        fallback: picks where no worker holds the prefix.
        stays: tells whether a conversation stays with its worker.
        remembered: number of prompts.
    """

    reads_prefix: ClassVar[bool] = True

    def __init__(self, fallback: Policy, stays: StayRule, remembered: int = REMEMBERED) -> None:
        self._fallback = fallback
        self._stays = stays
        self._remembered = remembered
        self._holders: OrderedDict[int, _Holder] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        worker = self._holder(workers, cost, keys)
        if worker is None:
            worker = self._fallback.pick(workers, cost, keys)
        if keys.hashes:
            # the next turn begins with all of this one, so the longest beginning finds it
            self._holders[keys.hashes[-1]] = _Holder(worker.incarnation, cost)
            self._holders.move_to_end(keys.hashes[-1])
            if len(self._holders) > self._remembered:
                self._holders.popitem(last=False)
        return worker

    def _holder(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker | None:
        for number in reversed(range(len(keys.hashes))):
            found = self._holders.get(keys.hashes[number])
            if found is None:
                continue
            worker = next((w for w in workers if w.incarnation == found.incarnation), None)
            # the earlier prompt may go on in another way after the beginning that is equal
            held = min(found.tokens, keys.tokens[number]) if keys.tokens else found.tokens
            if worker is not None and self._stays(worker, workers, cost, held):
                return worker
        return None


def within_load_bound(home: Worker, workers: Sequence[Worker], cost: int, held: int) -> bool:
    """Return whether a worker's load is below the bound. For decode workers: a request there is work until its end.

    See `StayRule` for the arguments.
    """
    return home.load.total_tokens < load_bound(workers, cost)


def worth_waiting(home: Worker, workers: Sequence[Worker], cost: int, held: int) -> bool:
    """Return whether a prompt waits for the prefill worker that holds a part of it, and not for the least loaded one.

    A move saves the wait for the prompts by which its worker is ahead, and costs the computation of the part that is
    held. The loads count whole prompts. The rule takes it that those ahead find as much in the cache as this one: an
    estimate from what was computed would rise with each move, and cause the next ones.

    See `StayRule` for the arguments.
    """
    lead = home.load.total_tokens - min(w.load.total_tokens for w in workers)
    held = min(held, cost)
    computed = max(cost - held, LEAST_SHARE * cost)
    return lead * computed <= MOVE_COST * held * cost


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

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """See `Policy`."""
        if not keys.hashes:
            return self._fallback.pick(workers, cost, keys)
        least = min(w.load.total_tokens for w in workers)
        bound = max(load_bound(workers, cost), least + PROMPTS_AHEAD * max(1, cost))
        # never empty: the least loaded worker is below the bound
        free = [w for w in workers if w.load.total_tokens < bound]
        return max(free, key=lambda w: (_mix(keys.hashes[0] ^ w.hash), w.name))


def load_bound(workers: Sequence[Worker], cost: int) -> float:
    """Return the outstanding tokens from which a worker is not preferred for its cache any more."""
    return LOAD_BOUND * (sum(w.load.total_tokens for w in workers) + max(1, cost)) / len(workers)


def _mix(x: int) -> int:
    """Return SplitMix64's finalizer of `x`: every bit of the result depends on every bit of `x`."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return x ^ (x >> 31)
