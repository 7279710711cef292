"""Make all models and data of `configs/demo`: the base model, each task tuned in two schemes, and their evaluation.

    python -m sun_sglang.demo.make --out configs/demo --seed 0

A seed gives the same examples in the same order on every machine; the last bits of the weights depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, write_module_file
from sun_sglang.contracts.scheme import SCHEMES
from sun_sglang.demo.pretrain import PretrainRecipe, pretrain
from sun_sglang.demo.tasks import DEMO_QUESTIONS, TASKS
from sun_sglang.demo.tokenizer import build_tokenizer
from sun_sglang.demo.tune import Tuned, TuneRecipe, search
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model, save_model
from sun_sglang.train.data.examples import Split, TokenizedExample, draw, encode, write_jsonl
from sun_sglang.train.objective.two_module_loss import TwoModule

Log = Callable[[str], None]

# half precision keeps the repository small and has three more mantissa bits than bfloat16. Every later stage, and the
# evaluation, starts from the saved weights in float32, as the CPU engine serves them.
SAVED_DTYPE = torch.float16
HELD_OUT = 300
BASE = "base"
RATES = (1e-3, 2e-3, 4e-3)
RECIPES: Mapping[str, TuneRecipe] = MappingProxyType(
    {"math": TuneRecipe(6400, 32, RATES), "tool": TuneRecipe(9600, 32, RATES)}
)


def checkpoint_name(task: str, scheme: str) -> str:
    """Return the directory name of a task's checkpoint: `math` for the shared decoder, `math-full` to compare."""
    return f"{task}-{scheme}" if SCHEMES[scheme].trains_decoder else task


def make(out: Path, seed: int, base_recipe: PretrainRecipe, recipes: Mapping[str, TuneRecipe], log: Log) -> None:
    """Write `out/models`, `out/data` and `out/evaluation.json`.

    Args:
        out: the directory, `configs/demo` for the committed ones.
        seed: seed of weights, data and order.
        base_recipe: settings of the base's pretraining.
        recipes: settings of tuning, by task.
        log: receives lines of progress.
    """
    seconds = dict[str, float]()
    started = time.monotonic()
    tokenizer = build_tokenizer()
    models = out / "models"
    for task in recipes:
        write_jsonl(out / "data" / f"{task}.test.jsonl", draw(TASKS[task], "test", HELD_OUT, seed))
        write_jsonl(out / "data" / f"{task}.demo.jsonl", DEMO_QUESTIONS[task])
    save_model(pretrain(tokenizer, base_recipe, seed, log), tokenizer, models / BASE, SAVED_DTYPE)
    seconds[BASE] = time.monotonic() - started

    searches = dict[str, Tuned]()
    for task, recipe in recipes.items():
        for scheme in ("full", "prefill_only"):
            before = time.monotonic()
            name = checkpoint_name(task, scheme)
            searches[name] = tune_task(models, task, scheme, recipe, seed, tokenizer, log)
            seconds[name] = time.monotonic() - before
    report = {
        "command": f"python -m sun_sglang.demo.make --out {_shown(out)} --seed {seed}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        "seconds": {name: round(value) for name, value in seconds.items()},
        "base_recipe": asdict(base_recipe),
        "tuning": {
            name: {"learning_rate": tuned.learning_rate, "validation_loss": tuned.validation_loss}
            for name, tuned in searches.items()
        },
        "exact_match": {
            task: exact_matches(models, task, _encoded(task, "test", HELD_OUT, seed, tokenizer), tokenizer.eos_token_id)
            for task in recipes
        },
    }
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    log(json.dumps(report["exact_match"], indent=2))


def tune_task(models: Path, task: str, scheme: str, recipe: TuneRecipe, seed: int, tokenizer: Any, log: Log) -> Tuned:
    """Tune one task from the saved base, and save it with `sun.json`.

    Args:
        models: directory of all models.
        task: name of the task.
        scheme: name of the tuning scheme.
        recipe: settings of tuning.
        seed: seed of data and order.
        tokenizer: tokenizer of the base.
        log: receives lines of progress.
    """
    base, description = models / BASE, SCHEMES[scheme]

    def build() -> TwoModule:
        prefill = load_model(base)
        return TwoModule(prefill, prefill if description.one_module else load_model(base), description)

    log(f"{task}, {scheme}: {recipe.examples} examples")
    tuned = search(
        build,
        _encoded(task, "train", recipe.examples, seed, tokenizer),
        _encoded(task, "validation", HELD_OUT, seed, tokenizer),
        recipe,
        pad=tokenizer.pad_token_id,
        seed=seed,
        log=lambda line: log(f"{scheme} at {line}"),
    )
    out = models / checkpoint_name(task, scheme)
    revision = save_model(tuned.model, tokenizer, out, SAVED_DTYPE)
    started_from = weights_revision(base)
    record = ModuleFile(
        scheme=scheme,
        base=started_from,
        decoder=revision if description.trains_decoder else started_from,
        first_token=description.first_token,
        command=f"python -m sun_sglang.demo.make --seed {seed}",
        seed=seed,
        learning_rate=tuned.learning_rate,
    )
    write_module_file(record, out)
    return tuned


def exact_matches(
    models: Path, task: str, examples: Sequence[TokenizedExample], end_token: int
) -> dict[str, dict[str, float]]:
    """Return the exact match of base, full fine-tuning, naive sharing and SUN, from the saved checkpoints.

    Args:
        models: directory of all models.
        task: name of the task.
        examples: questions with their answers.
        end_token: token id that ends an answer.
    """
    base = load_model(models / BASE)
    full = load_model(models / checkpoint_name(task, "full"))
    tuned = load_model(models / checkpoint_name(task, "prefill_only"))
    pairs = {"base": (base, base), "full": (full, full), "naive": (full, base), "sun": (tuned, base)}
    return {name: asdict(evaluate(prefill, decode, examples, end_token)) for name, (prefill, decode) in pairs.items()}


def _encoded(task: str, split: Split, count: int, seed: int, tokenizer: Any) -> list[TokenizedExample]:
    return [encode(tokenizer, example) for example in draw(TASKS[task], split, count, seed)]


def _shown(out: Path) -> str:
    return "DIR" if out.is_absolute() else str(out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.demo.make", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("configs/demo"), help="where models, data and evaluation go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make(arguments.out, arguments.seed, PretrainRecipe(), RECIPES, _say)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
