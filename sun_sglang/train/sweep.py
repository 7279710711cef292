"""Run a recipe: prepare it, sweep the learning rates (resumable), and save the best result with `sun.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.adapter import Fingerprint
from sun_sglang.contracts.module_file import ModuleFile, write_module_file
from sun_sglang.errors import CheckpointError, RecipeError
from sun_sglang.train.data.dataset import Examples, load_examples
from sun_sglang.train.data.limits import read_limits
from sun_sglang.train.data.packing import PackedRows
from sun_sglang.train.decoder_check import check_decoder
from sun_sglang.train.fingerprint import measure_fingerprint, write_fingerprint
from sun_sglang.train.modules import ADAPTER, build_modules, dtype_of, find_model, load_recipe_tokenizer, save_tuned
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.search_record import SearchRecord, Subject
from sun_sglang.train.trainer.accelerate import check_dtype, check_launched, sharded
from sun_sglang.train.trainer.launched_processes import is_first_process, world_size
from sun_sglang.train.trainer.settings import FitSettings
from sun_sglang.train.trainer.trained_state import load_trained
from sun_sglang.train.trainer.trainer import fit, pack
from sun_sglang.train.trainer.whole_checkpoints import FoundCheckpoints, find_checkpoints

Log = Callable[[str], None]


@dataclass(frozen=True)
class PreparedRecipe:
    """A recipe with its base, tokenizer and data.

    Attributes:
        recipe: the recipe.
        base: directory of the base model.
        decoder: directory of the frozen decode module; the base unless the recipe names another.
        tokenizer: tokenizer of the base, with the recipe's chat template.
        examples: the examples as token ids, split into training and validation.
        notes: what could not be checked of the models.
    """

    recipe: Recipe
    base: Path
    decoder: Path
    tokenizer: Any
    examples: Examples
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> PackedRows | None:
        """The packed rows of the training examples; None where the recipe pads."""
        recipe = self.recipe
        if recipe.packing_tokens is None:
            return None
        lengths = [len(e.prompt) + len(e.answer) for e in self.examples.train]
        return pack(lengths, recipe.global_batch, recipe.packing_tokens, recipe.seed, recipe.epochs)

    @property
    def steps(self) -> int:
        """Number of optimizer steps for one learning rate."""
        per_epoch = -(-len(self.examples.train) // self.recipe.global_batch)
        steps = max(1, round(per_epoch * self.recipe.epochs))
        return steps if self.recipe.max_steps is None else min(steps, self.recipe.max_steps)


def prepare(recipe: Recipe) -> PreparedRecipe:
    """Find and check everything that a recipe needs, before training starts.

    Raises:
        UserError: the launch settings, the base, the tokenizer or the data cannot train the recipe.
    """
    recipe.accumulation(world_size())
    check_launched(recipe)
    models = {"base": find_model(recipe.base, "base")}
    base = decoder = models["base"].directory
    check_dtype(recipe, dtype_of(base))
    if recipe.decoder is not None:
        models["decoder"] = find_model(recipe.decoder, "decoder")
        decoder = models["decoder"].directory
        check_decoder(base, decoder)
    for key, found in models.items():
        if Path(recipe.output).resolve() == found.directory.resolve():
            raise RecipeError(f"output: {recipe.output} is the model of `{key}`; give another directory")
    tokenizer = load_recipe_tokenizer(recipe, base)
    examples = load_examples(
        recipe.data,
        tokenizer,
        recipe.seed,
        limits=read_limits(base, decoder),
        template_kwargs=recipe.chat_template_kwargs,
    )
    shortest = 2 if recipe.first_token == "decode" else 1
    if min(len(e.prompt) for part in examples[:2] for e in part) < shortest:
        raise RecipeError(
            f"data: a prompt has fewer than {shortest} tokens, and `first_token: {recipe.first_token}` needs them"
        )
    if sharded() and min(len(e.answer) for part in examples[:2] for e in part) < 2:
        # this process would skip the decode module while the others wait for it to gather the module's weights
        raise RecipeError("data: an answer is empty, which sharded modules cannot train on; remove it")
    notes = (
        f"{key}: {found.directory}: tensors are checked only while they load ({found.unchecked})"
        for key, found in models.items()
        if found.unchecked
    )
    return PreparedRecipe(recipe, base, decoder, tokenizer, examples, tuple(notes))


def run_sweep(
    prepared: PreparedRecipe, command: str, log: Log, *, resume: bool = False, merge: bool = False
) -> ModuleFile:
    """Tune with every learning rate, save the best result, and return the content of its `sun.json`.

    Args:
        prepared: the recipe, from `prepare`.
        command: the command line to record in `sun.json`.
        log: receives a line of progress for each learning rate.
        resume: continue the search in `output/training`.
        merge: merge a LoRA adapter into the weights.

    Raises:
        RecipeError: `output` contains another training, or one that `resume` does not allow to continue; it cannot be
            written; a model has a weight that is not finite; or every rate diverged.
    """
    recipe, out = prepared.recipe, Path(prepared.recipe.output)
    with _write_errors(out):
        search = SearchRecord(out / "training", Subject.of(recipe, prepared.base, prepared.decoder, prepared.examples))
        search.open(resume)
        for rate in recipe.learning_rates:
            if rate in search.rates.losses:
                log(f"learning rate {rate:g}: {_described(search.rates.losses[rate])} (done before)")
                continue
            module = build_modules(recipe, prepared.base, prepared.decoder)
            loss = search.add(rate, _fit(module, prepared, rate, search.directory(rate), log, resume), module)
            log(f"learning rate {rate:g}: {_described(loss)}")
        rate = search.rates.best
        module = build_modules(recipe, prepared.base, prepared.decoder)
        record = _save(module, prepared, search, command, merge, log)
    log(f"kept learning rate {rate:g}; wrote {out}")
    return record


def _described(loss: float) -> str:
    return f"validation loss {loss:.5f}" if math.isfinite(loss) else "diverged, not kept"


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    """Turn a full disk and a missing permission into one error."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        raise RecipeError(
            f"output: {out}: reading or writing failed ({e}); make room or give another output. What was saved before "
            "is continued with --resume"
        ) from e


def _fit(module: TwoModule, prepared: PreparedRecipe, rate: float, work: Path, log: Log, resume: bool) -> float:
    recipe = prepared.recipe
    found = find_checkpoints(work) if resume else FoundCheckpoints(None, ())
    for broken in found.broken:
        log(f"learning rate {rate:g}: {broken.name} was cut short or changed, and is not used")
    settings = FitSettings(
        rate,
        1 if recipe.packing_tokens else recipe.micro_batch,
        accumulation=recipe.accumulation(world_size()),
        seed=recipe.seed,
        epochs=recipe.epochs,
        max_steps=0 if recipe.max_steps is None or recipe.max_steps > prepared.steps else recipe.max_steps,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        betas=recipe.betas,
        clip=recipe.clip,
        grouped=recipe.group_by_length,
        packing=recipe.packing_tokens or 0,
        bf16=recipe.bf16,
        save_steps=recipe.save_steps,
        reports=recipe.report_to,
        progress=is_first_process(),
        evaluation_batch=recipe.micro_batch,
    )
    # the mask hides it; a padding token of the tokenizer may be beyond the embedding
    pad = prepared.tokenizer.eos_token_id
    train, validation, _ = prepared.examples
    return fit(module, train, validation, settings, pad=pad, work=work, resume_from=found.newest)


def _save(
    module: TwoModule, prepared: PreparedRecipe, search: SearchRecord, command: str, merge: bool, log: Log
) -> ModuleFile:
    recipe, out = prepared.recipe, Path(prepared.recipe.output)
    load_trained(module, search.weights)
    if not is_first_process():
        return _record(recipe, search.subject.base, "", command, search.rates.best)
    # a merge removes the adapter
    fingerprint = None if recipe.lora is None else _fingerprint(module, log)
    save_tuned(module, recipe, prepared.base, out, merge=merge)
    adapter_alone = recipe.lora is not None and not merge
    where = out / ADAPTER if adapter_alone else out
    decoder = weights_revision(where) if recipe.tuning_scheme.trains_decoder else search.subject.decoder
    record = _record(recipe, search.subject.base, decoder, command, search.rates.best)
    write_module_file(record, where)
    if fingerprint is not None:
        write_fingerprint(fingerprint, out / ADAPTER)
    return record


def _fingerprint(module: TwoModule, log: Log) -> Fingerprint | None:
    try:
        return measure_fingerprint(module.tuned)
    except CheckpointError as e:
        log(f"wrote no fingerprint: {e}")
        return None


def _record(recipe: Recipe, base: str, decoder: str, command: str, rate: float) -> ModuleFile:
    # a path of this machine has no meaning on another
    shown = recipe.model_dump(mode="json", exclude={"base", "decoder", "output", "chat_template"})
    for key in ("file", "validation_file"):
        shown["data"][key] = shown["data"][key] and Path(shown["data"][key]).name
    return ModuleFile(
        scheme=recipe.scheme,
        base=base,
        decoder=decoder,
        first_token=recipe.first_token,
        command=command,
        seed=recipe.seed,
        learning_rate=rate,
        recipe=shown,
    )
