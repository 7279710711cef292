"""The cells of the table of quantised decoders: tune what a cell needs, and score it. Finished work stays in files."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from sun_sglang.bench.report import Case, Run
from sun_sglang.bench.training.accuracy_runs import TuningRun, TuningRuns
from sun_sglang.bench.training.grids import Grid
from sun_sglang.bench.training.retuning_runs import SUN, Retuning, RetuningRuns
from sun_sglang.bench.training.stored import read_stored, stored, stored_folder
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.evaluation.exact_match import evaluate
from sun_sglang.train.checkpoint import load_model, save_model

FULL = "full"
TUNED = (FULL, SUN)
"""The schemes that are tuned from the base."""
BASE = "base"
"""Name of the full-precision decoder."""
UNQUANTIZED = "none"
"""The grid of a row without quantised weights."""
# the demo's dtype: quantisers read and write checkpoints as they are served
_SAVED = torch.float16


class Part(NamedTuple):
    """The cells of one task and seed, which share tuned modules."""

    task: str
    seed: int


class Cell(NamedTuple):
    """One cell of a part.

    Attributes:
        method: key of `METHODS`.
        grid: name of the grid; `none` in full precision.
    """

    method: str
    grid: str


METHODS: Mapping[str, bool] = MappingProxyType(
    {
        "full": False,
        "full_quantized": True,
        "sun": False,
        "sun_retuned": False,
        "sun_quantized": True,
        "control": True,
        "qsun": True,
    }
)
"""The methods, and whether a method has quantised weights, so that it has a cell for each grid."""


class QuantizedCells:
    """Tunes and scores the cells, and reuses what is done. Writes a line to standard error for each.

    Args:
        tuning: the first tuning runs.
        work: folder of all other finished work.
        rates: learning rate by task and scheme.
        grids: the grids of quantised weights.
        questions: test questions of a task.
    """

    def __init__(
        self,
        tuning: TuningRuns,
        work: Path,
        rates: Mapping[str, Mapping[str, float]],
        grids: tuple[Grid, ...],
        questions: int,
    ) -> None:
        self._work, self._rates, self._questions = work, {task: dict(of) for task, of in rates.items()}, questions
        self._grids = {grid.name: grid for grid in grids}
        self._tuning = tuning
        self.decoders: Mapping[str, Path] = {
            BASE: tuning.base,
            **{
                name: stored_folder(work / "decoders" / name, partial(grid.quantize, tuning.base))
                for name, grid in self._grids.items()
            },
        }
        self._retuning = RetuningRuns(self._tuning, self.decoders, work / "retuned", log_line)

    def do(self, part: Part) -> None:
        """Tune and score all cells of a part."""
        scores = {f"{cell.method} {cell.grid}": self._score(part, cell)["percent"] for cell in self._cells()}
        log_line(
            f"{part.task}, seed {part.seed}: " + ", ".join(f"{name} {percent}" for name, percent in scores.items())
        )

    def done(self, part: Part) -> bool:
        """Return whether all cells of a part are done."""
        return all(read_stored(self._file(part, cell), self._subject(part, cell)) for cell in self._cells())

    def runs(self, part: Part) -> Iterator[Run]:
        """Yield the exact match of each cell of a part, and the validation loss of each tuning."""
        for cell in self._cells():
            case: Case = {"task": part.task, "method": cell.method, "grid": cell.grid}
            score = self._score(part, cell)
            values = {key: score[key] for key in ("correct", "total", "percent", "low", "high")}
            yield Run(case=case, seed=part.seed, values=values)
        for scheme in TUNED:
            loss = self._tuning.loss(self._first(part, scheme))
            yield Run(case={"task": part.task, "scheme": scheme}, seed=part.seed, values={"tuned_loss": loss})
        for decoder in self.decoders:
            loss = self._retuning.loss(self._again(part, decoder))
            tuned: Case = {"task": part.task, "scheme": SUN, "retuned_for": decoder}
            yield Run(case=tuned, seed=part.seed, values={"tuned_loss": loss})

    def seconds(self, parts: Iterable[Part], tried: Iterable[TuningRun]) -> float:
        """Return the seconds of all tuning.

        Args:
            parts: parts that are done.
            tried: the runs of the search over learning rates.
        """
        found = list(parts)
        firsts = {self._first(part, scheme) for part in found for scheme in TUNED} | set(tried)
        again = (self._again(part, name) for part in found for name in self.decoders)
        return sum(map(self._tuning.seconds_of, firsts)) + sum(map(self._retuning.seconds_of, again))

    def _cells(self) -> Iterator[Cell]:
        for method, quantized in METHODS.items():
            for grid in self._grids if quantized else (UNQUANTIZED,):
                yield Cell(method, grid)

    def _score(self, part: Part, cell: Cell) -> dict[str, Any]:
        return stored(self._file(part, cell), self._subject(part, cell), lambda: self._evaluate(part, cell))

    def _file(self, part: Part, cell: Cell) -> Path:
        return self._work / "scores" / f"{part.task}-seed{part.seed}-{cell.method}-{cell.grid}.json"

    def _subject(self, part: Part, cell: Cell) -> dict[str, object]:
        setting, rates = self._tuning.setting, self._rates[part.task]
        return {
            **part._asdict(),
            **cell._asdict(),
            "base": weights_revision(self._tuning.base),
            "rates": [rates[FULL], rates[SUN]],
            "examples": setting.tasks[part.task].examples,
            "batch": setting.batch,
            "questions": self._questions,
        }

    def _evaluate(self, part: Part, cell: Cell) -> dict[str, Any]:
        prefill, decode = self._modules(part, cell)
        questions = self._tuning.examples(part.task, "test", self._questions, 0)
        score = asdict(evaluate(prefill, decode, questions, self._tuning.tokenizer.eos_token_id))
        log_line(f"{part.task}, seed {part.seed}, {cell.method}, {cell.grid}: {score['percent']} %")
        return score

    def _modules(self, part: Part, cell: Cell) -> tuple[Any, Any]:
        """Return the prefill and the decode module of a cell, tuned."""
        if cell.method in ("full", "full_quantized"):
            model = self._tuned(part, FULL)
            if cell.method == "full_quantized":
                model = self._quantized_model(model, self._grids[cell.grid])
            return model, model
        quantized = METHODS[cell.method]
        decode = load_model(self.decoders[cell.grid if quantized else BASE])
        if cell.method in ("sun", "sun_quantized"):
            return self._tuned(part, SUN), decode
        # the control and `sun_retuned` were re-tuned against the full-precision decoder
        return self._retuning.weights(self._again(part, cell.grid if cell.method == "qsun" else BASE)), decode

    def _tuned(self, part: Part, scheme: str) -> Any:
        run = self._first(part, scheme)
        self._tuning.loss(run)
        return self._tuning.weights(run)

    def _quantized_model(self, model: Any, grid: Grid) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            dense, quantized = Path(folder) / "dense", Path(folder) / "quantized"
            save_model(model, self._tuning.tokenizer, dense, _SAVED)
            grid.quantize(dense, quantized)
            return load_model(quantized)

    def _first(self, part: Part, scheme: str) -> TuningRun:
        return TuningRun(part.task, scheme, part.seed, self._rates[part.task][scheme])

    def _again(self, part: Part, decoder: str) -> Retuning:
        return Retuning(part.task, part.seed, self._rates[part.task][SUN], decoder)


def log_line(line: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
