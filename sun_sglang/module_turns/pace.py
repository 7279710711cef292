"""The pace of a worker: exponentially weighted means of what it measured. Pure."""

from __future__ import annotations

from typing import NamedTuple

# weight of the newest measurement: a worker follows a change of load within about ten batches, and not within one
_NEWEST = 0.2


class Pace(NamedTuple):
    """Measurements of one worker; each is 0 until there is one.

    Attributes:
        change: seconds of a change of modules.
        batch: seconds of a batch.
        tokens: prompt tokens that a batch computes a second.
    """

    change: float = 0.0
    batch: float = 0.0
    tokens: float = 0.0

    def with_change(self, seconds: float) -> Pace:
        """Return the pace after a change that took `seconds`."""
        return self._replace(change=_mean(self.change, seconds))

    def with_batch(self, tokens: int, seconds: float) -> Pace:
        """Return the pace after a batch that computed `tokens` prompt tokens in `seconds`."""
        if seconds <= 0 or tokens <= 0:
            return self
        # a mean of seconds a token: a mean of rates would be that of the shortest batches
        spent = _mean(1 / self.tokens if self.tokens else 0.0, seconds / tokens)
        return self._replace(batch=_mean(self.batch, seconds), tokens=1 / spent)

    def work(self, tokens: int) -> float:
        """Return the expected seconds in which `tokens` prompt tokens are computed; 0 while nothing was measured."""
        return tokens / self.tokens if self.tokens else 0.0


def _mean(before: float, newest: float) -> float:
    return before + _NEWEST * (newest - before) if before else newest
