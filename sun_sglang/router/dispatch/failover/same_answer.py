"""Which pairs of workers compute one answer. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.contracts.scheme import Side
from sun_sglang.router.workers.compatibility import reads_replays
from sun_sglang.router.workers.worker_paths import Pair


class Computation(NamedTuple):
    """Everything of a pair that determines an answer. Pairs with equal values compute the same one.

    Attributes:
        pool: the prefill pool.
        prefill: revision of the prefill module.
        weights: the task's own weights on the prefill worker; None for the pool's model.
        decode: revision of the decode module.
        first_token: the side that makes the first token.
    """

    pool: str
    prefill: str
    weights: TaskWeights | None
    decode: str
    first_token: Side

    @classmethod
    def of(cls, pair: Pair) -> Computation:
        """Return what a usable pair computes."""
        prefill, decode = pair.prefill.card, pair.decode.card
        assert prefill is not None, "a usable pair has been read"
        assert decode is not None, "a usable pair has been read"
        return cls(pair.prefill.spec.pool, prefill.module, pair.weights, decode.module, pair.first_token)

    def goes_on(self, pair: Pair) -> bool:
        """Return whether a usable pair computes the same answer, and can repeat given tokens."""
        prefill, decode = pair.prefill.card, pair.decode.card
        assert prefill is not None, "a usable pair has been read"
        assert decode is not None, "a usable pair has been read"
        if not reads_replays(decode) or (self.first_token == "prefill" and not reads_replays(prefill)):
            return False
        return Computation.of(pair) == self
