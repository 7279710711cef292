"""The settings of a fit, and the `TrainingArguments` of transformers that they become."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.packing import PackedRows
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.trainer import deepspeed
from sun_sglang.train.trainer.launched_processes import world_size


@dataclass(frozen=True)
class FitSettings:
    """The settings of one fit.

    Attributes:
        rate: highest learning rate; AdamW with a linear schedule.
        batch: examples in one forward pass of a process.
        accumulation: batches in one step of a process.
        seed: seed of the order of examples.
        epochs: passes over the examples.
        max_steps: end after this many steps; 0 for the steps of `epochs`.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: weight decay of AdamW.
        betas: betas of AdamW.
        clip: largest norm of the gradient; 0 for no clipping.
        grouped: put examples of similar length into one batch.
        packing: most tokens of a packed row; 0 to pad. A step has the same number of examples either way.
        bf16: run the forward pass in bfloat16 autocast.
        save_steps: steps between two checkpoints to resume from; 0 for none.
        reports: receivers of metrics, as `TrainingArguments.report_to`.
        progress: show a progress bar.
        evaluation_batch: examples in one evaluation pass of a process; 0 for `batch`.
    """

    rate: float
    batch: int
    accumulation: int = 1
    seed: int = 0
    epochs: float = 1.0
    max_steps: int = 0
    warmup: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    grouped: bool = False
    packing: int = 0
    bf16: bool = False
    save_steps: int = 0
    reports: tuple[Literal["tensorboard", "wandb"], ...] = ()
    progress: bool = False
    evaluation_batch: int = 0


def training_arguments(module: TwoModule, settings: FitSettings, work: Path, rows: PackedRows | None) -> Any:
    """Return the `TrainingArguments` of a fit.

    Args:
        module: the modules before tuning.
        settings: the settings.
        work: directory for checkpoints and metrics.
        rows: the packed rows; None to pad.

    Raises:
        RecipeError: accelerate would train separately in each of several processes.
    """
    config = None
    if deepspeed.is_enabled():
        config = deepspeed.complete_config(deepspeed.launched_config(), bf16=settings.bf16, clip=settings.clip)
        deepspeed.claim_config()
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1 if rows else settings.batch,
        per_device_eval_batch_size=settings.evaluation_batch or settings.batch,
        gradient_accumulation_steps=rows.per_step // world_size() if rows else settings.accumulation,
        learning_rate=settings.rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        optim="adamw_torch",
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        # DeepSpeed's configuration sets it
        bf16=settings.bf16 and config is None,
        deepspeed=config,
        seed=settings.seed,
        # with `use_cpu` accelerate ignores DeepSpeed silently
        use_cpu=not torch.cuda.is_available() and config is None,
        dataloader_pin_memory=torch.cuda.is_available(),
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_strategy="steps" if settings.reports else "no",
        logging_steps=1,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 500,
        report_to=list(settings.reports) or "none",
        disable_tqdm=not settings.progress,
        # a side that makes no first token does not use the output of its last layer
        ddp_find_unused_parameters=module.leaves_parameters_unused,
        # buffers never change: those of RoPE, and a quantised decoder's weights. DDP would send them in every step
        ddp_broadcast_buffers=False,
    )
    if arguments.world_size != world_size():
        raise RecipeError(f"accelerate trains separately in each of the {world_size()} processes: DeepSpeed needs GPUs")
    return arguments
