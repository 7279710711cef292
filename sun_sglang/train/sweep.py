"""Run a recipe: prepare it, sweep the learning rates (resumable), and save the best result with `sun.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, write_module_file
from sun_sglang.errors import RecipeError
from sun_sglang.train.data.dataset import Examples, load_examples
from sun_sglang.train.data.limits import read_limits
from sun_sglang.train.data.packing import PackedRows
from sun_sglang.train.modules import build_modules, dtype_of, find_model, load_recipe_tokenizer, save_tuned
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.rate_search import RateSearch
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.trainer.accelerate import check_dtype, check_launched, sharded
from sun_sglang.train.trainer.launched_processes import is_first_process, world_size
from sun_sglang.train.trainer.trained_state import load_trained, trained_state
from sun_sglang.train.trainer.trainer import FitSettings, fit, pack

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
    """

    recipe: Recipe
    base: Path
    decoder: Path
    tokenizer: Any
    examples: Examples

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
        return max(1, round(per_epoch * self.recipe.epochs))


def prepare(recipe: Recipe) -> PreparedRecipe:
    """Find and check everything that a recipe needs, before training starts.

    Raises:
        UserError: the launch settings, the base, the tokenizer or the data cannot train the recipe.
    """
    recipe.accumulation(world_size())
    check_launched(recipe)
    base = find_model(recipe.base, "base")
    check_dtype(recipe, dtype_of(base))
    decoder = base if recipe.decoder is None else find_model(recipe.decoder, "decoder")
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
    return PreparedRecipe(recipe, base, decoder, tokenizer, examples)


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
        RecipeError: `output` contains another training, or one that `resume` does not allow to continue.
    """
    recipe, out = prepared.recipe, Path(prepared.recipe.output)
    search = _Search(out / "training", recipe, resume)
    for rate in recipe.learning_rates:
        if rate in search.rates.losses:
            log(f"learning rate {rate:g}: validation loss {search.rates.losses[rate]:.5f} (done before)")
            continue
        module = build_modules(recipe, prepared.base, prepared.decoder)
        loss = _fit(module, prepared, rate, search.directory(rate), resume)
        search.add(rate, loss, module)
        log(f"learning rate {rate:g}: validation loss {loss:.5f}")
    rate = search.rates.best
    module = build_modules(recipe, prepared.base, prepared.decoder)
    record = _save(module, prepared, search, command, merge)
    log(f"kept learning rate {rate:g}; wrote {out}")
    return record


def _fit(module: TwoModule, prepared: PreparedRecipe, rate: float, work: Path, resume: bool) -> float:
    recipe = prepared.recipe
    settings = FitSettings(
        rate,
        1 if recipe.packing_tokens else recipe.micro_batch,
        accumulation=recipe.accumulation(world_size()),
        seed=recipe.seed,
        epochs=recipe.epochs,
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
    return fit(module, train, validation, settings, pad=pad, work=work, resume=resume)


def _save(module: TwoModule, prepared: PreparedRecipe, search: _Search, command: str, merge: bool) -> ModuleFile:
    recipe, out = prepared.recipe, Path(prepared.recipe.output)
    load_trained(module, search.weights)
    started_from = weights_revision(prepared.base)
    if not is_first_process():
        return _record(recipe, started_from, "", command, search.rates.best)
    save_tuned(module, recipe, prepared.base, out, merge=merge)
    adapter_alone = recipe.lora is not None and not merge
    where = out / "adapter" if adapter_alone else out
    own = weights_revision(where)
    decoder = weights_revision(prepared.decoder) if not recipe.tuning_scheme.trains_decoder else own
    record = _record(recipe, started_from, decoder, command, search.rates.best)
    write_module_file(record, where)
    return record


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


class _Search:
    """The search over learning rates in a directory: losses in `search.json`, the best weights beside it."""

    def __init__(self, work: Path, recipe: Recipe, resume: bool) -> None:
        self._work = work
        self._file = work / "search.json"
        self._recipe = recipe.model_dump(mode="json")
        self.rates = RateSearch()
        there = self._file.exists() or (work.parent / "config.json").exists()
        # without --resume only the first process checks: it writes the file while other processes still start
        if there and not resume and is_first_process():
            raise RecipeError(
                f"output: {work.parent} contains a training already; continue it with --resume, or choose another"
            )
        if there and resume:
            self._read()
        if is_first_process():
            work.mkdir(parents=True, exist_ok=True)
            self._write()

    @property
    def weights(self) -> Path:
        return self._work / "best.safetensors"

    def directory(self, rate: float) -> Path:
        return self._work / f"{rate:g}"

    def add(self, rate: float, loss: float, module: TwoModule) -> None:
        is_best = self.rates.add(rate, loss)
        # in every process: gathering a sharded parameter needs all of them
        state = trained_state(module) if is_best else None
        if is_first_process():
            if state is not None:
                save_file(state, self.weights)
            self._write()
            for checkpoint in self.directory(rate).glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # the other processes read the best weights at the end
            torch.distributed.barrier()

    def _read(self) -> None:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise RecipeError(f"output: {self._file} cannot be read ({e}); choose another output") from e
        if found["recipe"] != self._recipe:
            raise RecipeError(
                f"output: {self._work} belongs to another recipe; choose another output, or remove the directory"
            )
        self.rates = RateSearch({float(rate): loss for rate, loss in found["losses"].items()})

    def _write(self) -> None:
        content = {"recipe": self._recipe, "losses": {str(rate): loss for rate, loss in self.rates.losses.items()}}
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        new.replace(self._file)
