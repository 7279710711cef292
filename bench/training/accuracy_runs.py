"""The tuning runs of the accuracy benchmark, kept in files: one for each task, scheme, seed and learning rate."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from sun_sglang.bench.training.schemes import COMPARED
from sun_sglang.bench.training.stored import stored
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.demo.tasks import math, order, tool
from sun_sglang.demo.tune import tune
from sun_sglang.train.checkpoint import load_model, load_tokenizer
from sun_sglang.train.data.examples import Generator, Split, TokenizedExample, draw, encode
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.rate_search import RateSearch

TASKS: Mapping[str, Generator] = MappingProxyType({"math": math, "tool": tool, "order": order})


@dataclass(frozen=True)
class TaskSetting:
    """The tuning of one task; every scheme is tuned in the same way.

    Attributes:
        examples: training examples; each is used once.
        rates: learning rates that every scheme tries on the first seed; the rate with the least validation loss
            is used for all seeds.
    """

    examples: int
    rates: tuple[float, ...] = (4e-3, 8e-3)


@dataclass(frozen=True)
class Setting:
    """The size of the experiment. The committed results were made with the defaults.

    Attributes:
        tasks: the tuning of each task.
        batch: examples a step.
        seeds: seeds of data and order; the base model is the same for all.
        held_out: questions in the validation split, and in the test split.
    """

    tasks: Mapping[str, TaskSetting]
    batch: int = 16
    seeds: tuple[int, ...] = (0, 1, 2)
    held_out: int = 300


DEFAULT = {"math": TaskSetting(12_000), "tool": TaskSetting(24_000), "order": TaskSetting(16_000)}


@dataclass(frozen=True)
class TuningRun:
    """One tuning run."""

    task: str
    scheme: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """The run's file name, without its ending."""
        return f"{self.task}-{self.scheme}-seed{self.seed}-{self.rate:g}"


class Fitted(NamedTuple):
    """The result of a fit.

    Attributes:
        model: the tuned module.
        loss: its validation loss.
    """

    model: Any
    loss: float


def tune_into(file: Path, tune_once: Callable[[], Fitted], log: Callable[[str], None]) -> dict[str, float]:
    """Tune, save the weights beside `file`, and return the validation loss and the seconds.

    Args:
        file: the run's file, which is written later.
        tune_once: tunes.
        log: receives a line.
    """
    started = time.monotonic()
    fitted = tune_once()
    seconds = time.monotonic() - started
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().clone() for name, p in fitted.model.named_parameters()}, _weights_beside(file))
    log(f"{file.stem}: validation loss {fitted.loss:.5f}, {seconds:.0f} s")
    return {"validation_loss": fitted.loss, "seconds": seconds}


def load_weights(base: Path, file: Path) -> Any:
    """Return the base model with the weights that `tune_into` saved."""
    model = load_model(base)
    state, parameters = load_file(_weights_beside(file)), dict(model.named_parameters())
    assert parameters.keys() == state.keys()
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)
    return model


def _weights_beside(file: Path) -> Path:
    # a rate in the name has a dot
    return file.parent / f"{file.name.removesuffix('.json')}.safetensors"


class TuningRuns:
    """Does tuning runs, and reuses those that are already done.

    Args:
        base: directory of the base model.
        work: folder of weights and validation losses.
        setting: the size of the experiment.
        log: receives a line for each run.
    """

    def __init__(self, base: Path, work: Path, setting: Setting, log: Callable[[str], None]) -> None:
        self.base, self.work, self.setting, self._log = base, work, setting, log
        self.tokenizer = load_tokenizer(base)

    def search(self, task: str, scheme: str) -> tuple[float, dict[float, float]]:
        """Return the rate with the least validation loss on the first seed, and the loss of every rate."""
        seed = self.setting.seeds[0]
        losses = {rate: self.loss(TuningRun(task, scheme, seed, rate)) for rate in self.setting.tasks[task].rates}
        return RateSearch(losses).best, losses

    def do(self, runs: Sequence[TuningRun], jobs: int) -> None:
        """Do the runs that are not done, `jobs` at once, each in a process of its own."""
        if jobs == 1:
            for run in runs:
                self.loss(run)
            return
        own = (self.base, self.work, self.setting, torch.get_num_threads())
        # spawned: torch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for line in pool.map(_do, [(*own, run) for run in runs]):
                if line:
                    self._log(line)

    def loss(self, run: TuningRun) -> float:
        """Return the validation loss of a run; do the run if it is not done."""
        return float(self._result(run)["validation_loss"])

    def seconds_of(self, run: TuningRun) -> float:
        """Return the seconds of a run; do the run if it is not done."""
        return float(self._result(run)["seconds"])

    def _result(self, run: TuningRun) -> dict[str, Any]:
        file = self.work / f"{run.name}.json"
        subject = {
            "run": asdict(run),
            "base": weights_revision(self.base),
            "batch": self.setting.batch,
            "examples": self.setting.tasks[run.task].examples,
        }
        return stored(file, subject, lambda: tune_into(file, lambda: self._tune(run), self._log))

    def done(self, run: TuningRun) -> bool:
        """Return whether a run is done."""
        return (self.work / f"{run.name}.json").exists()

    def weights(self, run: TuningRun) -> Any:
        """Return the tuned model of a run that is done."""
        return load_weights(self.base, self.work / f"{run.name}.json")

    def examples(self, task: str, split: Split, count: int, seed: int) -> list[TokenizedExample]:
        """Return tokenized examples of a task.

        Args:
            task: name of the task.
            split: `train`, `validation` or `test`.
            count: number of examples.
            seed: seed of the examples.
        """
        return [encode(self.tokenizer, e) for e in draw(TASKS[task], split, count, seed)]

    def seconds(self) -> float:
        """Return the seconds of all runs that are done."""
        return sum(float(json.loads(p.read_text(encoding="utf-8"))["seconds"]) for p in self._reports())

    def _reports(self) -> Iterator[Path]:
        yield from self.work.glob("*-seed*.json")

    def fit(self, module: TwoModule, task: str, seed: int, rate: float) -> Fitted:
        """Tune a pair of modules on a task's examples, in place.

        Args:
            module: the modules before tuning.
            task: name of the task.
            seed: seed of the examples and of their order.
            rate: highest learning rate.
        """
        torch.manual_seed(seed)
        train = self.examples(task, "train", self.setting.tasks[task].examples, seed)
        validation = self.examples(task, "validation", self.setting.held_out, 0)
        pad, batch = self.tokenizer.pad_token_id, self.setting.batch
        return Fitted(module.tuned, tune(module, train, validation, rate=rate, batch=batch, pad=pad, seed=seed))

    def _tune(self, run: TuningRun) -> Fitted:
        prefill, scheme = load_model(self.base), COMPARED[run.scheme]
        decode = prefill if scheme.one_module else load_model(self.base)
        return self.fit(TwoModule(prefill, decode, scheme), run.task, run.seed, run.rate)


def _do(what: tuple[Path, Path, Setting, int, TuningRun]) -> str:
    base, work, setting, threads, run = what
    torch.set_num_threads(threads)
    lines: list[str] = []
    TuningRuns(base, work, setting, lines.append).loss(run)
    return "".join(lines)
