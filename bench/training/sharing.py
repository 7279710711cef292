"""Accuracy against the share of the prompt's KV that the other module made: SUN's Fig. 2, and PrefillShare's.

    python -m sun_sglang.bench.training.sharing

In SUN's figure the base decodes KV of the tuned module, in PrefillShare's the tuned module decodes KV of the base. The
decode module computes the rest of the KV itself. Reads the weights that `sun_sglang.bench.training.accuracy` left in
`--work`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import JsonValue
from transformers import DynamicCache

from sun_sglang.bench.figures.accuracy_table import chosen_rates
from sun_sglang.bench.figures.sharing import SharingFigure
from sun_sglang.bench.report import RESULTS, Case, Run, new_report, read_report, write_report
from sun_sglang.bench.training.accuracy_runs import DEFAULT, Setting, TuningRun, TuningRuns
from sun_sglang.contracts.scheme import Side
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.data.collate import positions
from sun_sglang.train.reference import KvMix

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def share_layers(share: float) -> KvMix:
    """Return a mix that hands over the KV of the first layers and keeps the decode module's for the others."""

    def mix(handed: DynamicCache, own: DynamicCache, mask: torch.Tensor) -> None:
        for layer in range(round(share * len(handed.layers)), len(handed.layers)):
            handed.layers[layer].keys = own.layers[layer].keys
            handed.layers[layer].values = own.layers[layer].values

    return mix


def share_positions(share: float) -> KvMix:
    """Return a mix that hands over the KV of each prompt's first tokens and keeps the decode module's for the later."""

    def mix(handed: DynamicCache, own: DynamicCache, mask: torch.Tensor) -> None:
        count = mask.sum(-1, keepdim=True)
        kept = (positions(mask) < (share * count).round())[:, None, :, None]
        for layer, mine in zip(handed.layers, own.layers, strict=True):
            layer.keys = torch.where(kept, layer.keys, mine.keys)
            layer.values = torch.where(kept, layer.values, mine.values)

    return mix


MIXES = MappingProxyType({"layers": share_layers, "positions": share_positions})


def evaluate_shares(tuning: TuningRuns, task: str, seed: int, rates: Mapping[str, float]) -> list[Run]:
    """Score a task with each share of the KV, by layers and by positions.

    Args:
        tuning: the tuning runs, which are all done.
        task: name of the task.
        seed: seed of the tuning runs.
        rates: learning rate of each scheme.
    """
    base = load_model(tuning.base)
    models = {
        scheme: tuning.weights(TuningRun(task, scheme, seed, rates[scheme]))
        for scheme in ("full", "prefill_only", "decode_only")
    }
    questions = tuning.examples(task, "test", tuning.setting.held_out, 0)
    end = tuning.tokenizer.eos_token_id
    # with the untuned base as prefill module the decode module makes the first token: the base's would always be wrong
    pairs: Mapping[tuple[str, str], tuple[Any, Any, Side]] = {
        ("base", "naive"): (models["full"], base, "prefill"),
        ("base", "tuned"): (models["prefill_only"], base, "prefill"),
        ("task", "naive"): (base, models["full"], "decode"),
        ("task", "tuned"): (base, models["decode_only"], "decode"),
    }
    runs = []
    for (decodes, curve), (prefill, decode, first) in pairs.items():
        for (axis, mix), share in product(MIXES.items(), SHARES):
            score = evaluate(prefill, decode, questions, end, first, mix(share))
            case: Case = {"task": task, "decodes": decodes, "shared": axis, "tuning": curve, "share": share}
            runs.append(Run(case=case, seed=seed, values={"percent": 100 * score.correct / score.total}))
    return runs


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.bench.training.sharing", description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"), help="the base model")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), help="the accuracy benchmark's --work")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the accuracy report, and of this one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the tuning runs")
    parser.add_argument("--questions", type=int, default=100, help="test questions a task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(DEFAULT, held_out=arguments.questions)
    tuning = TuningRuns(arguments.base, arguments.work, setting, log=lambda _: None)
    rates = chosen_rates(read_report(arguments.out / "training_accuracy.json"))
    runs = [run for task, found in rates.items() for run in evaluate_shares(tuning, task, arguments.seed, found)]
    command = f"python -m sun_sglang.bench.training.sharing --questions {arguments.questions}"
    settings: dict[str, JsonValue] = {"questions": arguments.questions}
    report = new_report("training_sharing", command, runs, {"percent": "%"}, seeds=[arguments.seed], settings=settings)
    write_report(report, arguments.out / "training_sharing.json")
    SharingFigure().draw(arguments.out, arguments.out)


if __name__ == "__main__":
    main()
