"""The search over learning rates: keep the rate with the least validation loss. Pure."""

from __future__ import annotations

from collections.abc import Mapping


class RateSearch:
    """Validation losses by learning rate, in the order in which the rates were tried.

    Args:
        losses: results of an earlier run that this one resumes.
    """

    def __init__(self, losses: Mapping[float, float] | None = None) -> None:
        self.losses: dict[float, float] = dict(losses or {})

    @property
    def best(self) -> float:
        """The learning rate with the least validation loss; the first of equals."""
        return min(self.losses, key=self.losses.__getitem__)

    def add(self, rate: float, loss: float) -> bool:
        """Record the validation loss of a rate; return whether it is now the best."""
        self.losses[rate] = loss
        return self.best == rate
