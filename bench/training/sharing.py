"""The sharing-ratio figures: accuracy against how much of the prompt's KV comes from the other module.

    python -m sun_sglang.bench.training.sharing

SUN's Fig. 2 (the base decodes KV of the tuned module) and PrefillShare's (the tuned module decodes KV of the base).
What is not shared is the decode module's own. Reads the weights that
`sun_sglang.bench.training.accuracy` left in `--work`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from transformers import DynamicCache

from sun_sglang.bench.training.accuracy_runs import DEFAULT, Run, Runs, Setting
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.data.collate import positions
from sun_sglang.train.reference import Mix

Axis = Literal["layers", "positions"]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TITLES: Mapping[str, str] = MappingProxyType(
    {"sun": "the base decodes (SUN)", "prefillshare": "the task's module decodes (PrefillShare)"}
)


def share_layers(share: float) -> Mix:
    """Hand over the first layers' KV; the other layers' is the decode module's own."""

    def mix(handed: DynamicCache, own: DynamicCache, mask: torch.Tensor) -> None:
        for layer in range(round(share * len(handed.layers)), len(handed.layers)):
            handed.layers[layer].keys = own.layers[layer].keys
            handed.layers[layer].values = own.layers[layer].values

    return mix


def share_positions(share: float) -> Mix:
    """Hand over the KV of the first tokens of each prompt; the later ones' is the decode module's own."""

    def mix(handed: DynamicCache, own: DynamicCache, mask: torch.Tensor) -> None:
        count = mask.sum(-1, keepdim=True)
        kept = (positions(mask) < (share * count).round())[:, None, :, None]
        for layer, mine in zip(handed.layers, own.layers, strict=True):
            layer.keys = torch.where(kept, layer.keys, mine.keys)
            layer.values = torch.where(kept, layer.values, mine.values)

    return mix


MIXES = MappingProxyType({"layers": share_layers, "positions": share_positions})


def measure(runs: Runs, task: str, seed: int, rates: Mapping[str, Any]) -> dict[str, Any]:
    """Percent by figure, axis and curve (`naive`, `tuned`), one for each share."""
    base = load_model(runs.base)
    models = {
        scheme: runs.weights(Run(task, scheme, seed, rates[scheme]["chosen"]))
        for scheme in ("full", "prefill_only", "decode_only")
    }
    questions = runs.examples(task, "test", runs.setting.held_out, 0)
    end = runs.tokenizer.eos_token_id
    # the untuned base would make the first token wrong whatever it is handed, so the decode module makes it
    pairs = {
        ("sun", "naive"): (models["full"], base, "prefill"),
        ("sun", "tuned"): (models["prefill_only"], base, "prefill"),
        ("prefillshare", "naive"): (base, models["full"], "decode"),
        ("prefillshare", "tuned"): (base, models["decode_only"], "decode"),
    }
    found: dict[str, Any] = {figure: {axis: {} for axis in MIXES} for figure in TITLES}
    for (figure, curve), (prefill, decode, first) in pairs.items():
        for axis, mix in MIXES.items():
            results = [evaluate(prefill, decode, questions, end, first, mix(share)) for share in SHARES]  # type: ignore[arg-type] # first is one
            found[figure][axis][curve] = [100 * r.correct / r.total for r in results]
    return found


def plot(report: Mapping[str, Any], out: Path) -> None:
    """One panel a figure and axis; a thin line a task, a thick one their mean."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    # text as text, and no date: the same figures give the same file
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sun"})
    figure, panels = pyplot.subplots(2, 2, figsize=(9, 6.5), sharex=True, sharey=True, layout="constrained")
    for row, (name, title) in enumerate(TITLES.items()):
        for column, axis in enumerate(MIXES):
            panel = panels[row][column]
            for curve, colour in (("naive", "tab:red"), ("tuned", "tab:blue")):
                lines: Sequence[Any] = [task[name][axis][curve] for task in report["tasks"].values()]
                for line in lines:
                    panel.plot([100 * s for s in SHARES], line, color=colour, alpha=0.3, linewidth=1)
                mean = [sum(values) / len(values) for values in zip(*lines, strict=True)]
                panel.plot([100 * s for s in SHARES], mean, color=colour, marker="o", label=curve)
            panel.set_title(f"{title}, by {axis}", fontsize=10)
            panel.set_xlabel(f"{axis} whose KV the other module made, %")
            panel.set_ylabel("exact match, %")
            panel.legend()
    figure.savefig(out, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.bench.training.sharing", description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"))
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=100, help="test questions a task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = Runs(arguments.base, arguments.work, Setting(DEFAULT, held_out=arguments.questions), print_nothing)
    rates = json.loads((arguments.out / "accuracy.json").read_text(encoding="utf-8"))["rates"]
    report = {
        "command": f"python -m sun_sglang.bench.training.sharing --questions {arguments.questions}",
        "seed": arguments.seed,
        "questions": arguments.questions,
        "shares": SHARES,
        "tasks": {task: measure(runs, task, arguments.seed, found) for task, found in rates.items()},
    }
    (arguments.out / "accuracy_sharing.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot(report, arguments.out / "accuracy_sharing.svg")


def print_nothing(_line: str) -> None:
    """Every run is there already."""


if __name__ == "__main__":
    main()
