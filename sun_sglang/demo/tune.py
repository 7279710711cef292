"""Tune one task as in the SUN paper (appendix A.1): AdamW, linear schedule, warm-up 0.1, one epoch, the best rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.rate_search import RateSearch
from sun_sglang.train.trainer.settings import FitSettings
from sun_sglang.train.trainer.trainer import fit


@dataclass(frozen=True)
class TuneRecipe:
    """The settings of tuning one task.

    Attributes:
        examples: number of training examples, each used once.
        batch: examples in one step.
        learning_rates: tried in turn, each from the base.
    """

    examples: int
    batch: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Tuned:
    """The result of a search over learning rates.

    Attributes:
        model: the best tuned module, in float32.
        learning_rate: its learning rate.
        validation_loss: validation loss of every rate.
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
    """Tune with every learning rate from the same start, and return the result with the least validation loss.

    Args:
        build: returns the modules before tuning.
        train: training examples, each used once for each rate.
        validation: examples for the validation loss.
        recipe: batch size and rates.
        pad: token id that fills prompts.
        seed: seed of the order of examples.
        log: receives a line for each rate.
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
    """Train the sides of `module` that its scheme trains, in place, and return the validation loss.

    Args:
        module: the modules before tuning.
        train: training examples.
        validation: examples for the validation loss.
        rate: highest learning rate.
        batch: examples in one step.
        pad: token id that fills prompts.
        seed: seed of the order of examples.
    """
    settings = FitSettings(rate, batch, seed=seed, evaluation_batch=100)
    return fit(module, train, validation, settings, pad=pad)
