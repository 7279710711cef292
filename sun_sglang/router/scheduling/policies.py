"""Who serves a request. Pure: it looks at each worker's load, at what the prompt begins with, and at its own RNG."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from sun_sglang.router.workers.worker import Worker


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


def _by_tokens(worker: Worker) -> tuple[int, int, int]:
    return worker.load.total_tokens, worker.load.total_requests, worker.last_pick


def _by_requests(worker: Worker) -> tuple[int, int, int]:
    return worker.load.total_requests, worker.load.total_tokens, worker.last_pick


def _by_turn(worker: Worker) -> int:
    return worker.last_pick
