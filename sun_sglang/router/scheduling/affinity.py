"""Policies that send like to like, within a bound on load, and what makes two prompts alike. Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.workers.worker import Worker

if TYPE_CHECKING:
    from sun_sglang.router.scheduling.policies import Policy

# A worker may have this many times the mean load before what belongs to it goes elsewhere: c in consistent hashing with
# bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018; arXiv:1608.01350).
LOAD_BOUND = 1.25
REMEMBERED = 1 << 16
_BLOCK_BYTES = 1024
_BLOCK_IDS = 256
_MOST_BLOCKS = 64
_64_BITS = (1 << 64) - 1


class CacheAffinity:
    """A conversation returns to the worker that holds its prefix, unless that one is loaded beyond the bound.

    Remembers where the last `remembered` prompts went, so memory is bounded.

    Args:
        otherwise: chooses where there is no such worker.
        remembered: prompts.
    """

    def __init__(self, otherwise: Policy, remembered: int = REMEMBERED) -> None:
        self._otherwise = otherwise
        self._remembered = remembered
        self._holders: OrderedDict[int, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        worker = self._holder(workers, cost, keys)
        if worker is None:
            worker = self._otherwise.pick(workers, cost, keys)
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
    """Prompts that begin alike go to one worker, and to the next in their own order while that one is over the bound.

    Each prefix ranks the workers by a hash of both (rendezvous hashing; Thaler and Ravishankar, 1998), so that a worker
    that comes or goes moves only what is its own, and nothing has to be remembered.

    Args:
        otherwise: chooses for a prompt of which nothing is known.
    """

    def __init__(self, otherwise: Policy) -> None:
        self._otherwise = otherwise

    def pick(self, workers: Sequence[Worker], cost: int, keys: Sequence[int]) -> Worker:
        """See `Policy`."""
        if not keys:
            return self._otherwise.pick(workers, cost, keys)
        bound = load_bound(workers, cost)
        # not empty: the least loaded worker is never over the mean
        free = [w for w in workers if w.load.total_tokens < bound]
        return max(free, key=lambda w: (_mix(keys[0] ^ w.hash), w.name))


def load_bound(workers: Sequence[Worker], cost: int) -> float:
    """Outstanding tokens from which a worker takes nothing more for affinity's sake."""
    return LOAD_BOUND * (sum(w.load.total_tokens for w in workers) + max(1, cost)) / len(workers)


def prefix_keys(endpoint: Endpoint, body: Mapping[str, Any], *, of: str, session: str | None = None) -> tuple[int, ...]:
    """What a prompt begins with: hashes of longer and longer beginnings, the shortest first.

    Two prompts have a key in common where they begin alike for a whole number of messages, or of blocks of text or
    tokens. A session's name stands for all of that where the client gives one.

    Args:
        endpoint: where it came in.
        body: the request's body, for one answer.
        of: the cache namespace, as far as it is known; prompts of different ones have nothing in common.
        session: the client's name for the conversation.
    """
    state = hashlib.blake2b(of.encode(errors="surrogatepass"), digest_size=8)
    if session is not None:
        state.update(b"\0" + session.encode(errors="surrogatepass"))
        return (_number(state.digest()),)
    keys = []
    for piece in _pieces(endpoint, body):
        state.update(piece)
        keys.append(_number(state.digest()))
    return tuple(keys)


def _pieces(endpoint: Endpoint, body: Mapping[str, Any]) -> Iterable[bytes]:
    ids = body.get("prompt") if endpoint is Endpoint.COMPLETIONS else body.get("input_ids")
    if isinstance(ids, list):
        ids = ids[: _BLOCK_IDS * _MOST_BLOCKS]
        return (orjson.dumps(block) for block in _blocks(ids, _BLOCK_IDS))
    if endpoint is Endpoint.CHAT:
        return (orjson.dumps(message) for message in body["messages"][:_MOST_BLOCKS])
    text = body.get("prompt" if endpoint is Endpoint.COMPLETIONS else "text") or ""
    raw = text[: _BLOCK_BYTES * _MOST_BLOCKS].encode(errors="surrogatepass")
    return _blocks(raw, _BLOCK_BYTES)


def _blocks(whole: Any, size: int) -> Iterable[Any]:
    """Whole blocks, since a longer prompt shares those; all of it where it is shorter than one."""
    if len(whole) < size:
        return (whole,)
    return (whole[i : i + size] for i in range(0, len(whole) - size + 1, size))


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")


def _mix(x: int) -> int:
    """SplitMix64's finalizer: every bit of the result depends on every bit of `x`."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return x ^ (x >> 31)
