"""Tuning one task in the paper's shape (SUN, appendix A.1).

AdamW, linear schedule, warm-up 0.1, one epoch; the learning rate with the least validation loss is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module import TwoModule
from sun_sglang.train.rate_search import RateSearch
from sun_sglang.train.trainer.trainer import FitSettings, fit


@dataclass(frozen=True)
class TuneRecipe:
    """How a task is tuned.

    Attributes:
        examples: training examples, each seen once.
        batch: examples a step.
        learning_rates: tried in turn, each from the base.
    """

    examples: int
    batch: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Tuned:
    """The best of a learning-rate search.

    Attributes:
        model: the tuned module, in float32.
        learning_rate: the rate that made it.
        validation_loss: of every rate that was tried.
    """

    model: Any
    learning_rate: float
    validation_loss: dict[float, float]


def search(
    build: Callable[[], TwoModule],
    train: Sequence[TokenizedExample],
    validation: Sequence[TokenizedExample],
    recipe: TuneRecipe,
    *,
    pad: int,
    seed: int,
    log: Callable[[str], None],
) -> Tuned:
    """Tune once with every learning rate, from the same start, and keep the one with the least validation loss.

    Args:
        build: makes the modules as they are before tuning.
        train: examples, each seen once a run.
        validation: examples that choose the rate.
        recipe: batch size and rates.
        pad: token id that fills prompts.
        seed: of the order of the examples.
        log: takes a line a run.
    """
    assert recipe.learning_rates, "a search has at least one learning rate"
    rates, model = RateSearch(), None
    for rate in recipe.learning_rates:
        module = build()
        loss = tune(module, train, validation, rate=rate, batch=recipe.batch, pad=pad, seed=seed)
        log(f"{rate:g}: validation loss {loss:.5f}")
        if rates.add(rate, loss):
            model = module.tuned.eval()
    return Tuned(model, rates.best, rates.losses)


def tune(
    module: TwoModule,
    train: Sequence[TokenizedExample],
    validation: Sequence[TokenizedExample],
    *,
    rate: float,
    batch: int,
    pad: int,
    seed: int,
) -> float:
    """Train the side of `module` that its scheme names, in place; gives back the validation loss."""
    how = FitSettings(rate, batch, seed=seed, evaluation_batch=100)
    return fit(module, train, validation, how, pad=pad)
