"""The search over learning rates: keep the rate with the least finite validation loss. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sun_sglang.errors import RecipeError


class RateSearch:
    """Validation losses by learning rate, in the order in which the rates were tried.

    A loss that is not finite means that the rate diverged. Such a rate is never the best.

    Args:
        losses: results of an earlier run that this one resumes.
    """

    def __init__(self, losses: Mapping[float, float] | None = None) -> None:
        self.losses: dict[float, float] = dict(losses or {})

    @property
    def has_best(self) -> bool:
        """Whether a rate did not diverge."""
        return any(math.isfinite(loss) for loss in self.losses.values())

    @property
    def best(self) -> float:
        """The learning rate with the least finite validation loss; the first of equals.

        Raises:
            RecipeError: every rate diverged.
        """
        finite = [rate for rate, loss in self.losses.items() if math.isfinite(loss)]
        if not finite:
            tried = ", ".join(f"{rate:g}" for rate in self.losses)
            raise RecipeError(
                f"learning_rates: training diverged with every rate that was tried ({tried}); give smaller rates"
            )
        return min(finite, key=self.losses.__getitem__)

    def add(self, rate: float, loss: float) -> bool:
        """Record the validation loss of a rate; return whether it is now the best."""
        self.losses[rate] = loss
        return math.isfinite(loss) and self.best == rate
