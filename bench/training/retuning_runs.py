"""Tune prefill modules again, from SUN's, against a quantised or the full-precision decoder. Kept in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sun_sglang.bench.training.accuracy_runs import Fitted, TuningRun, TuningRuns, load_weights, tune_into
from sun_sglang.bench.training.schemes import COMPARED
from sun_sglang.bench.training.stored import stored
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.objective.two_module_loss import TwoModule

SUN = "prefill_only"


class Retuning(NamedTuple):
    """One tuning of a SUN prefill module, with SUN's data, rate and schedule once more.

    Attributes:
        task: name of the task.
        seed: seed of the first tuning, and of this one.
        rate: learning rate of the first tuning, and of this one.
        decoder: name of the frozen decoder.
    """

    task: str
    seed: int
    rate: float
    decoder: str

    @property
    def first(self) -> TuningRun:
        """The run that made the prefill module to start from."""
        return TuningRun(self.task, SUN, self.seed, self.rate)


class RetuningRuns:
    """Does such runs, and reuses those that are already done.

    Args:
        tuning: the first tuning runs.
        decoders: directory of each decoder, by name.
        work: folder of weights and validation losses.
        log: receives a line for each run.
    """

    def __init__(
        self, tuning: TuningRuns, decoders: Mapping[str, Path], work: Path, log: Callable[[str], None]
    ) -> None:
        self._tuning, self._decoders, self._work, self._log = tuning, decoders, work, log

    def loss(self, run: Retuning) -> float:
        """Return the validation loss of a run; do the run if it is not done."""
        return float(self._result(run)["validation_loss"])

    def seconds_of(self, run: Retuning) -> float:
        """Return the seconds of a run; do the run if it is not done."""
        return float(self._result(run)["seconds"])

    def _result(self, run: Retuning) -> dict[str, Any]:
        file, setting = self._file(run), self._tuning.setting
        subject: dict[str, object] = {
            "run": run._asdict(),
            "base": weights_revision(self._tuning.base),
            "decoder_weights": weights_revision(self._decoders[run.decoder]),
            "batch": setting.batch,
            "examples": setting.tasks[run.task].examples,
        }
        return stored(file, subject, lambda: tune_into(file, lambda: self._tune(run), self._log))

    def weights(self, run: Retuning) -> Any:
        """Return the prefill module of a run; do the run if it is not done."""
        self._result(run)
        return load_weights(self._tuning.base, self._file(run))

    def _file(self, run: Retuning) -> Path:
        return self._work / f"{run.task}-{run.decoder}-seed{run.seed}-{run.rate:g}.json"

    def _tune(self, run: Retuning) -> Fitted:
        self._tuning.loss(run.first)
        decoder = load_model(self._decoders[run.decoder])
        module = TwoModule(self._tuning.weights(run.first), decoder, COMPARED[SUN])
        return self._tuning.fit(module, run.task, run.seed, run.rate)
