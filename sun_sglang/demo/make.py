"""Make all models and data of `configs/demo`: the base and its quantised copy, the tuned modules, their evaluation.

    python -m sun_sglang.demo.make --out configs/demo --seed 0
    python -m sun_sglang.demo.make --out configs/demo --seed 0 --scheme decode_only
    python -m sun_sglang.demo.make --out configs/demo --seed 0 --scheme qsun

The second command tunes one scheme again, or for the first time, from the base that is there, and leaves the rest. The
third one tunes the SUN modules that are there for the quantised base that is there.

A seed gives the same examples in the same order on every machine; the last bits of the weights depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from sun_sglang.demo.systems import (
    BASE,
    FIRST_TOKEN,
    GROUP,
    QSUN,
    QUANTIZED_BASE,
    TUNINGS,
    checkpoint_name,
    origin,
    pairs,
    systems_with,
)
from sun_sglang.demo.tasks import DEMO_QUESTIONS, TASKS
from sun_sglang.demo.tokenizer import build_tokenizer
from sun_sglang.demo.tune import Tuned, TuneRecipe, search
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.packed_weights.checkpoint import write_rounded
from sun_sglang.train.checkpoint import load_model, save_model
from sun_sglang.train.data.examples import Split, TokenizedExample, draw, encode, write_jsonl
from sun_sglang.train.objective.two_module_loss import TwoModule

Log = Callable[[str], None]

# half precision keeps the repository small and has three more mantissa bits than bfloat16. Every later stage, and the
# evaluation, starts from the saved weights in float32, as the CPU engine serves them.
SAVED_DTYPE = torch.float16
HELD_OUT = 300
EVALUATION = "evaluation.json"
RATES = (1e-3, 2e-3, 4e-3)
Recipes = Mapping[str, TuneRecipe]
"""The settings of tuning, by task."""

_EASY: Recipes = MappingProxyType({"math": TuneRecipe(6400, 32, RATES), "tool": TuneRecipe(9600, 32, RATES)})
# decode-only needs the most examples and the smallest batch: it learns to copy from KV that was not made for it
# (docs/training.md, "Reproducing the papers at small scale")
_HARD: Recipes = MappingProxyType({"math": TuneRecipe(12000, 16, RATES[1:]), "tool": TuneRecipe(24000, 16, RATES[1:])})
RECIPES: Mapping[str, Recipes] = MappingProxyType(
    # a re-tuning is SUN's tuning once more, as in the paper (appendix A.1)
    {"full": _EASY, "prefill_only": _EASY, "decode_only": _HARD, QSUN: _EASY}
)


def make(out: Path, seed: int, base_recipe: PretrainRecipe, recipes: Mapping[str, Recipes], log: Log) -> None:
    """Write `out/models`, `out/data` and `out/evaluation.json`.

    Args:
        out: the directory, `configs/demo` for the committed ones.
        seed: seed of weights, data and order.
        base_recipe: settings of the base's pretraining.
        recipes: settings of tuning, by tuning and task; one that starts from another's result comes later.
        log: receives lines of progress.
    """
    started = time.monotonic()
    tokenizer = build_tokenizer()
    models = out / "models"
    for task in TASKS:
        write_jsonl(out / "data" / f"{task}.test.jsonl", draw(TASKS[task], "test", HELD_OUT, seed))
        write_jsonl(out / "data" / f"{task}.demo.jsonl", DEMO_QUESTIONS[task])
    save_model(pretrain(tokenizer, base_recipe, seed, log), tokenizer, models / BASE, SAVED_DTYPE)
    shutil.rmtree(models / QUANTIZED_BASE, ignore_errors=True)
    write_rounded(models / BASE, models / QUANTIZED_BASE, group_size=GROUP)
    seconds = time.monotonic() - started
    report: dict[str, Any] = {
        "command": f"python -m sun_sglang.demo.make --out {_shown(out)} --seed {seed}",
        "machine": _machine(),
        "seconds": {BASE: round(seconds)},
        "base_recipe": asdict(base_recipe),
        "tuning": {},
        "exact_match": {},
    }
    for scheme, own in recipes.items():
        _tune(report, models, scheme, seed, own, log)
    _evaluate(report, models, None, seed, TASKS)
    _write(report, out)
    log(json.dumps(report["exact_match"], indent=2))


def make_scheme(out: Path, scheme: str, seed: int, recipes: Recipes, log: Log) -> None:
    """Tune one scheme from the models in `out/models`, and enter it into `out/evaluation.json`.

    Args:
        out: the directory of an earlier `make`.
        scheme: one of `TUNINGS`.
        seed: seed of data and order.
        recipes: settings of tuning, by task.
        log: receives lines of progress.

    Raises:
        OSError: there is no earlier `make`.
    """
    report: dict[str, Any] = json.loads((out / EVALUATION).read_text(encoding="utf-8"))
    models = out / "models"
    _tune(report, models, scheme, seed, recipes, log)
    _evaluate(report, models, scheme, seed, recipes)
    report.setdefault("machine_of", {})[scheme] = _machine()
    _write(report, out)
    log(json.dumps(report["exact_match"], indent=2))


def _tune(report: dict[str, Any], models: Path, scheme: str, seed: int, recipes: Recipes, log: Log) -> None:
    tokenizer = build_tokenizer()
    for task, recipe in recipes.items():
        before, name = time.monotonic(), checkpoint_name(task, scheme)
        tuned = tune_task(models, task, scheme, recipe, seed, tokenizer, log)
        report["seconds"][name] = round(time.monotonic() - before)
        report["tuning"][name] = {
            "learning_rate": tuned.learning_rate,
            "validation_loss": {str(rate): loss for rate, loss in tuned.validation_loss.items()},
        }


def _evaluate(report: dict[str, Any], models: Path, scheme: str | None, seed: int, tasks: Iterable[str]) -> None:
    """Enter the exact match of the systems with a scheme's checkpoint; None: of all systems."""
    tokenizer = build_tokenizer()
    for task in tasks:
        names = list(pairs(task)) if scheme is None else systems_with(task, scheme)
        examples = _encoded(task, "test", HELD_OUT, seed, tokenizer)
        cells = report["exact_match"].setdefault(task, {})
        cells.update(exact_matches(models, task, names, examples, tokenizer.eos_token_id))


def _write(report: dict[str, Any], out: Path) -> None:
    (out / EVALUATION).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _machine() -> str:
    return (
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def tune_task(models: Path, task: str, scheme: str, recipe: TuneRecipe, seed: int, tokenizer: Any, log: Log) -> Tuned:
    """Tune one task from saved weights, and save it with `sun.json`.

    Args:
        models: directory of all models.
        task: name of the task.
        scheme: one of `TUNINGS`.
        recipe: settings of tuning.
        seed: seed of data and order.
        tokenizer: tokenizer of the base.
        log: receives lines of progress.
    """
    of = origin(task, scheme)
    description = SCHEMES[of.scheme].with_first_token(FIRST_TOKEN[of.scheme])

    def build() -> TwoModule:
        start = load_model(models / of.start)
        other = start if description.one_module else load_model(models / of.other)
        sides = (start, other) if description.tuned_side == "prefill" else (other, start)
        return TwoModule(*sides, description)

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
    record = ModuleFile(
        scheme=of.scheme,
        base=weights_revision(models / of.start),
        decoder=revision if description.trains_decoder else weights_revision(models / of.other),
        first_token=description.first_token,
        command=f"python -m sun_sglang.demo.make --seed {seed}",
        seed=seed,
        learning_rate=tuned.learning_rate,
    )
    write_module_file(record, out)
    return tuned


def exact_matches(
    models: Path, task: str, names: Iterable[str], examples: Sequence[TokenizedExample], end_token: int
) -> dict[str, dict[str, float]]:
    """Return the exact match of systems, from the saved checkpoints.

    Args:
        models: directory of all models.
        task: name of the task.
        names: names of the systems, as in `pairs`.
        examples: questions with their answers.
        end_token: token id that ends an answer.
    """
    cells = {}
    for name in names:
        prefill, decode, first_token = pairs(task)[name]
        loaded = load_model(models / prefill)
        decoder = loaded if decode == prefill else load_model(models / decode)
        cells[name] = asdict(evaluate(loaded, decoder, examples, end_token, first_token))
    return cells


def _encoded(task: str, split: Split, count: int, seed: int, tokenizer: Any) -> list[TokenizedExample]:
    return [encode(tokenizer, example) for example in draw(TASKS[task], split, count, seed)]


def _shown(out: Path) -> str:
    return "DIR" if out.is_absolute() else str(out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.demo.make", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("configs/demo"), help="where models, data and evaluation go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheme", choices=TUNINGS, help="tune this scheme alone, from the models in --out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.scheme:
        of = [origin(task, arguments.scheme) for task in RECIPES[arguments.scheme]]
        models = dict.fromkeys(f"models/{name}/config.json" for o in of for name in (o.start, o.other))
        for needed in (EVALUATION, *models):
            if not (arguments.out / needed).is_file():
                parser.error(f"--out: {arguments.out} has no {needed}; make it first, without --scheme")
        make_scheme(arguments.out, arguments.scheme, arguments.seed, RECIPES[arguments.scheme], _say)
    else:
        make(arguments.out, arguments.seed, PretrainRecipe(), RECIPES, _say)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
