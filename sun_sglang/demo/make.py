"""Make all models and data of `configs/demo`: the base model, each task tuned in three schemes, and their evaluation.

    python -m sun_sglang.demo.make --out configs/demo --seed 0
    python -m sun_sglang.demo.make --out configs/demo --seed 0 --scheme decode_only

The second command tunes one scheme again, or for the first time, from the base that is there, and leaves the rest.

A seed gives the same examples in the same order on every machine; the last bits of the weights depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import transformers

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, write_module_file
from sun_sglang.contracts.scheme import SCHEMES, Side
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
EVALUATION = "evaluation.json"
# the schemes that are compared, with the side that makes the first token
FIRST_TOKEN: Mapping[str, Side] = MappingProxyType(
    {"full": "prefill", "prefill_only": "prefill", "decode_only": "decode"}
)
RATES = (1e-3, 2e-3, 4e-3)
Recipes = Mapping[str, TuneRecipe]
"""The settings of tuning, by task."""

_EASY: Recipes = MappingProxyType({"math": TuneRecipe(6400, 32, RATES), "tool": TuneRecipe(9600, 32, RATES)})
# decode-only needs the most examples and the smallest batch: it learns to copy from KV that was not made for it
# (docs/training.md, "Reproducing the papers at small scale")
_HARD: Recipes = MappingProxyType({"math": TuneRecipe(12000, 16, RATES[1:]), "tool": TuneRecipe(24000, 16, RATES[1:])})
RECIPES: Mapping[str, Recipes] = MappingProxyType({"full": _EASY, "prefill_only": _EASY, "decode_only": _HARD})


class Pair(NamedTuple):
    """The checkpoints of a system that serves a task, by the names of their directories.

    Attributes:
        prefill: runs the prompts.
        decode: continues.
        first_token: the side that makes the first token.
    """

    prefill: str
    decode: str
    first_token: Side = "prefill"


def checkpoint_name(task: str, scheme: str) -> str:
    """Return the directory name of a task's checkpoint: `math` for the shared decoder, else with the scheme's name."""
    return f"{task}-{scheme.replace('_', '-')}" if SCHEMES[scheme].trains_decoder else task


def pairs(task: str) -> dict[str, Pair]:
    """Return the systems that are compared on a task: the base, full fine-tuning, naive sharing, and both papers'."""
    full, tuned = checkpoint_name(task, "full"), checkpoint_name(task, "prefill_only")
    return {
        "base": Pair(BASE, BASE),
        "full": Pair(full, full),
        "naive": Pair(full, BASE),
        "sun": Pair(tuned, BASE),
        "prefillshare": Pair(BASE, checkpoint_name(task, "decode_only"), FIRST_TOKEN["decode_only"]),
    }


def make(out: Path, seed: int, base_recipe: PretrainRecipe, recipes: Mapping[str, Recipes], log: Log) -> None:
    """Write `out/models`, `out/data` and `out/evaluation.json`.

    Args:
        out: the directory, `configs/demo` for the committed ones.
        seed: seed of weights, data and order.
        base_recipe: settings of the base's pretraining.
        recipes: settings of tuning, by scheme and task.
        log: receives lines of progress.
    """
    started = time.monotonic()
    tokenizer = build_tokenizer()
    models = out / "models"
    for task in TASKS:
        write_jsonl(out / "data" / f"{task}.test.jsonl", draw(TASKS[task], "test", HELD_OUT, seed))
        write_jsonl(out / "data" / f"{task}.demo.jsonl", DEMO_QUESTIONS[task])
    save_model(pretrain(tokenizer, base_recipe, seed, log), tokenizer, models / BASE, SAVED_DTYPE)
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
    """Tune one scheme from the base in `out/models`, and enter it into `out/evaluation.json`.

    Args:
        out: the directory of an earlier `make`.
        scheme: name of the tuning scheme.
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
        names = [n for n, pair in pairs(task).items() if scheme is None or checkpoint_name(task, scheme) in pair]
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
    base, description = models / BASE, SCHEMES[scheme].with_first_token(FIRST_TOKEN[scheme])

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
    parser.add_argument("--scheme", choices=tuple(FIRST_TOKEN), help="tune this scheme alone, from the base in --out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.scheme:
        for needed in (EVALUATION, f"models/{BASE}/config.json"):
            if not (arguments.out / needed).is_file():
                parser.error(f"--out: {arguments.out} has no {needed}; make the base first, without --scheme")
        make_scheme(arguments.out, arguments.scheme, arguments.seed, RECIPES[arguments.scheme], _say)
    else:
        make(arguments.out, arguments.seed, PretrainRecipe(), RECIPES, _say)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
