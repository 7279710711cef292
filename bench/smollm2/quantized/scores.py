"""Score the table's rows: exact match of greedy answers to held-out questions. Finished scores are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sun_sglang.bench.smollm2.data import TASKS
from sun_sglang.bench.smollm2.quantized.recipes import Setting
from sun_sglang.bench.smollm2.quantized.rows import Module, Pair
from sun_sglang.bench.smollm2.quantized.tunings import Tunings
from sun_sglang.bench.training.stored import stored
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model, load_tokenizer
from sun_sglang.train.data.examples import draw, encode
from sun_sglang.train.quantized.packed_linear import PackedLinear


class Scores:
    """Scores pairs of modules, and reuses scores that are there.

    Args:
        tunings: does the tunings that are not done.
        work: folder of the scores.
        setting: the size of the experiment.
        log: receives a line for each score.
    """

    def __init__(self, tunings: Tunings, work: Path, setting: Setting, log: Callable[[str], None]) -> None:
        self._tunings, self._work, self._setting, self._log = tunings, work, setting, log

    def score(self, name: str, task: str, pair: Pair) -> dict[str, Any]:
        """Return the exact match of a pair on a task's test questions.

        Args:
            name: name of the score's file.
            task: the task.
            pair: its modules.

        Returns:
            The fields of `ExactMatch`, and `prefill` and `decode`, the revisions of the weights.
        """
        prefill, decode = (self._directory(module) for module in pair)
        subject: dict[str, object] = {
            "prefill": weights_revision(prefill),
            "decode": weights_revision(decode),
            "questions": self._setting.questions,
        }
        file = self._work / f"{name}.json"
        return stored(file, subject, lambda: self._evaluate(name, task, prefill, decode))

    def _directory(self, module: Module) -> Path:
        if module.tuning is not None:
            self._tunings.result(module.tuning)
        return self._tunings.directory(module)

    def _evaluate(self, name: str, task: str, prefill: Path, decode: Path) -> dict[str, Any]:
        tokenizer = load_tokenizer(prefill)
        questions = [encode(tokenizer, e) for e in draw(TASKS[task], "test", self._setting.questions, 0)]
        first = _load(prefill)
        second = first if prefill == decode else _load(decode)
        score = evaluate(first, second, questions, tokenizer.eos_token_id)
        self._log(f"{name}: {score.percent} %")
        return asdict(score)


def _load(model: Path) -> Any:
    """Load a model as it is served: in bfloat16, a quantised weight as the bfloat16 values that it stands for."""
    loaded = load_model(model, torch.bfloat16)
    packed = {name: layer for name, layer in loaded.named_modules() if isinstance(layer, PackedLinear)}
    for name, layer in packed.items():
        # the same products, without unpacking the weight for each token
        dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        dense.weight = nn.Parameter(layer.layer.dense(torch.bfloat16), requires_grad=False)
        if layer.bias is not None:
            dense.bias = nn.Parameter(layer.bias.to(torch.bfloat16), requires_grad=False)
        loaded.set_submodule(name, dense)
    return loaded
