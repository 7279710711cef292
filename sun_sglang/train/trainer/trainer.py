"""Fit a two-module loss with `transformers.Trainer`, with the optimisation of the SUN paper (appendix A.1)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.utils import logging

from sun_sglang.train.data.collate import IGNORED, LengthGrouped, collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.data.packing import PackedRows, Row, collate_row
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.trainer import deepspeed
from sun_sglang.train.trainer.divergence import StopOnDivergence
from sun_sglang.train.trainer.launched_processes import world_size
from sun_sglang.train.trainer.settings import FitSettings, training_arguments
from sun_sglang.train.trainer.trained_state import load_trained, trained_state
from sun_sglang.train.trainer.whole_checkpoints import MarkWhole

TRAINED = "trained.safetensors"


def fit(
    module: TwoModule,
    train: Sequence[TokenizedExample],
    validation: Sequence[TokenizedExample],
    settings: FitSettings,
    *,
    pad: int,
    work: Path | None = None,
    resume_from: Path | None = None,
) -> float:
    """Train the sides of `module` that its scheme trains, in place, and return the validation loss.

    The result is NaN if the training diverged: it ends at the first loss that is not finite.

    Args:
        module: the modules before tuning.
        train: training examples.
        validation: examples for the validation loss.
        settings: learning rate, batch and schedule.
        pad: token id that fills prompts.
        work: directory for checkpoints and metrics; None for a temporary directory.
        resume_from: a checkpoint in `work` to continue from.
    """
    if not settings.progress:
        logging.disable_progress_bar()
    if work is None:
        with tempfile.TemporaryDirectory() as scratch:
            return _fit(module, train, validation, settings, pad, Path(scratch), None)
    return _fit(module, train, validation, settings, pad, work, resume_from)


def _fit(
    module: TwoModule,
    train: Sequence[TokenizedExample],
    validation: Sequence[TokenizedExample],
    settings: FitSettings,
    pad: int,
    work: Path,
    resume_from: Path | None,
) -> float:
    examples, together = _Examples(train), settings.batch * settings.accumulation * world_size()
    rows = (
        pack(examples.lengths(), together, settings.packing, settings.seed, settings.epochs)
        if settings.packing
        else None
    )
    trainer = _TwoModuleTrainer(
        module,
        training_arguments(module, settings, work, rows),
        data_collator=_Collator(pad),
        train_dataset=examples,
    )
    trainer.sampler = rows or (LengthGrouped(examples.lengths(), together, settings.seed) if settings.grouped else None)
    trainer.add_callback(trainer.divergence)
    trainer.add_callback(MarkWhole)
    # it prints dictionaries to stdout, which the caller uses
    trainer.remove_callback(PrinterCallback)
    bar = _ProgressBar()
    if settings.progress:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(bar)
    try:
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        return math.nan if trainer.divergence.diverged else trainer.validation_loss(validation)
    finally:
        bar.close()
        deepspeed.forget_config()


def pack(lengths: Sequence[int], batch: int, tokens: int, seed: int, epochs: float) -> PackedRows:
    """Return the packed rows of a fit.

    Args:
        lengths: tokens of each example.
        batch: examples in one step, over all processes.
        tokens: most tokens of a row.
        seed: seed of the order.
        epochs: passes over the examples.
    """
    return PackedRows(lengths, batch, tokens, world_size(), seed, math.ceil(epochs))


class _Examples(Dataset[TokenizedExample | Row]):
    """Returns an example by its index, and a packed row by the indices of its examples."""

    def __init__(self, examples: Sequence[TokenizedExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int | tuple[int, ...]) -> TokenizedExample | Row:
        if isinstance(index, tuple):
            return Row(tuple(self._examples[i] for i in index))
        return self._examples[index]

    def lengths(self) -> list[int]:
        return [len(e.prompt) + len(e.answer) for e in self._examples]


class _Collator:
    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, batch: Sequence[TokenizedExample | Row]) -> dict[str, torch.Tensor]:
        if isinstance(batch[0], Row):
            (row,) = batch
            assert isinstance(row, Row)
            return collate_row(row)
        return collate([example for example in batch if isinstance(example, TokenizedExample)], self._pad)


class _ProgressBar(ProgressCallback):  # type: ignore[misc] # transformers is not followed, so its classes are Any
    def on_log(self, *_args: object, **_kwargs: object) -> None:
        """Print nothing: the bar is on stderr, and metrics go to `reports`."""

    def close(self) -> None:
        """End the line of the bar, also where an error ends the training."""
        if self.training_bar is not None:
            self.training_bar.close()


class _TwoModuleTrainer(Trainer):  # type: ignore[misc] # transformers is not followed, so its classes are Any
    """Saves only the trained parameters: the frozen side is the base, which exists already."""

    sampler: PackedRows | LengthGrouped | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.divergence = StopOnDivergence()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run one forward and backward pass, and record whether its loss is finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.divergence.note(loss)
        return loss

    def create_accelerator_and_postprocess(self) -> None:
        """Keep the dtype of the loss under FSDP2: accelerate's policy for bfloat16 rounds it."""
        super().create_accelerator_and_postprocess()
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and plugin.mixed_precision_policy is not None:
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.sampler is None else self.sampler

    def validation_loss(self, examples: Sequence[TokenizedExample]) -> float:
        """Return the mean loss of all answer tokens, the same for any number of processes.

        `Trainer.evaluate` averages over batches, and repeats examples where the number of processes does not divide
        them.
        """
        model, size, args = self.model_wrapped, self.args.per_device_eval_batch_size, self.args
        model.eval()
        batches = [examples[i : i + size] for i in range(0, len(examples), size)]
        total = torch.zeros(2, dtype=torch.float64, device=args.device)
        for start in range(0, len(batches), args.world_size):
            own = start + args.process_index
            # every process runs equally often: the forward pass of a sharded module needs all of them
            inputs = self._prepare_inputs(self.data_collator(batches[own % len(batches)]))
            with torch.no_grad():
                loss = model(**inputs).loss
            if own < len(batches):
                tokens = (inputs["labels"] != IGNORED).sum()
                total += torch.stack([loss.double() * tokens, tokens.double()])
        loss, tokens = self.accelerator.reduce(total, reduction="sum").tolist()
        self.log({"eval_loss": loss / tokens})
        return float(loss / tokens)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights of a checkpoint; for sharded modules they are saved with the optimizer's state."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
        except RuntimeError as e:
            # the file writer of torch.save raises no OSError on a full disk
            if "inline_container" not in str(e):
                raise
            raise OSError(f"a checkpoint could not be written: {str(e).splitlines()[0]}") from e

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        out = Path(output_dir or self.args.output_dir)
        out.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self.accelerator.unwrap_model(self.model)), out / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint) / TRAINED)
