"""Tuning one task: the two-module loss on `transformers.Trainer`, in the paper's shape (SUN, appendix A.1).

AdamW, linear schedule, warm-up 0.1, one epoch; the learning rate with the least validation loss is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

from sun_sglang.train.batch import collate
from sun_sglang.train.examples import Encoded
from sun_sglang.train.two_module import TwoModule


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


class _Examples(Dataset[Encoded]):
    def __init__(self, examples: Sequence[Encoded]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Encoded:
        return self._examples[index]


def search(
    build: Callable[[], TwoModule],
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
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
    losses, best = dict[float, float](), None
    for rate in recipe.learning_rates:
        module = build()
        losses[rate] = tune(module, train, validation, rate=rate, batch=recipe.batch, pad=pad, seed=seed)
        log(f"{module.scheme} at {rate:g}: validation loss {losses[rate]:.5f}")
        if losses[rate] == min(losses.values()):
            best = Tuned(module.tuned.eval(), rate, losses)
    assert best is not None, "a search has at least one learning rate"
    return best


def tune(
    module: TwoModule,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    *,
    rate: float,
    batch: int,
    pad: int,
    seed: int,
) -> float:
    """Train the side of `module` that its scheme names, in place; gives back the validation loss."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=100,
            learning_rate=rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            num_train_epochs=1,
            optim="adamw_torch",
            max_grad_norm=1.0,
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
            prediction_loss_only=True,
            remove_unused_columns=False,
            label_names=["labels"],
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            module,
            arguments,
            data_collator=partial(collate, pad=pad),
            train_dataset=_Examples(train),
            eval_dataset=_Examples(validation),
        )
        # it prints dictionaries to stdout, which belongs to the caller
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return float(trainer.evaluate()["eval_loss"])
