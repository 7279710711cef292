"""The tuning runs behind the accuracy table: one is a task, a scheme, a seed and a learning rate, kept as a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sun_sglang.bench.training.schemes import COMPARED
from sun_sglang.demo.tasks import math, order, tool
from sun_sglang.demo.tune import tune
from sun_sglang.train.checkpoint import load_model, load_tokenizer
from sun_sglang.train.data.examples import Generator, Split, TokenizedExample, draw, encode
from sun_sglang.train.objective.two_module import TwoModule
from sun_sglang.train.rate_search import RateSearch

TASKS: Mapping[str, Generator] = MappingProxyType({"math": math, "tool": tool, "order": order})


@dataclass(frozen=True)
class TaskSetting:
    """How one task is tuned, by every scheme alike.

    Attributes:
        examples: training examples, each seen once.
        rates: learning rates that every scheme tries on the first seed; the one with the least validation loss is
            used for all seeds.
    """

    examples: int
    rates: tuple[float, ...] = (4e-3, 8e-3)


@dataclass(frozen=True)
class Setting:
    """How large the experiment is. The defaults are what the committed results were made with.

    Attributes:
        tasks: how each is tuned.
        batch: examples a step.
        seeds: of data and order. The base model is the same for all.
        held_out: questions of the validation split, and of the test split.
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


class TuningRuns:
    """Does runs, and finds those that are done already.

    Args:
        base: directory of the base model.
        work: where weights and validation losses are kept.
        setting: how large.
        log: takes a line a run.
    """

    def __init__(self, base: Path, work: Path, setting: Setting, log: Callable[[str], None]) -> None:
        self.base, self.work, self.setting, self._log = base, work, setting, log
        self.tokenizer = load_tokenizer(base)

    def search(self, task: str, scheme: str) -> tuple[float, dict[float, float]]:
        """The best rate by validation loss on the first seed, and every rate's loss."""
        seed = self.setting.seeds[0]
        losses = {rate: self.loss(TuningRun(task, scheme, seed, rate)) for rate in self.setting.tasks[task].rates}
        return RateSearch(losses).best, losses

    def do(self, runs: Sequence[TuningRun], jobs: int) -> None:
        """Do runs, several at once in processes of their own; those that are done already cost nothing."""
        if jobs == 1:
            for run in runs:
                self.loss(run)
            return
        own = (self.base, self.work, self.setting, torch.get_num_threads())
        # not forked: torch's threads do not survive that
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for line in pool.map(_do, [(*own, run) for run in runs]):
                if line:
                    self._log(line)

    def loss(self, run: TuningRun) -> float:
        """Validation loss of a run, which is done first if it was not."""
        report = self.work / f"{run.name}.json"
        how = self.setting.tasks[run.task]
        wanted = {"run": asdict(run), "batch": self.setting.batch, "examples": how.examples}
        if report.exists():
            found = json.loads(report.read_text(encoding="utf-8"))
            if all(found.get(key) == value for key, value in wanted.items()):
                return float(found["validation_loss"])
        started = time.monotonic()
        module = self._tune(run)
        seconds = time.monotonic() - started
        self.work.mkdir(parents=True, exist_ok=True)
        state = {name: p.detach().clone() for name, p in module.model.named_parameters()}
        save_file(state, self.work / f"{run.name}.safetensors")
        report.write_text(json.dumps({**wanted, "validation_loss": module.loss, "seconds": seconds}, indent=2) + "\n")
        self._log(f"{run.name}: validation loss {module.loss:.5f}, {seconds:.0f} s")
        return float(module.loss)

    def done(self, run: TuningRun) -> bool:
        """Whether a run's result is there."""
        return (self.work / f"{run.name}.json").exists()

    def weights(self, run: TuningRun) -> Any:
        """The tuned model of a run that is done."""
        model = load_model(self.base)
        state = load_file(self.work / f"{run.name}.safetensors")
        parameters = dict(model.named_parameters())
        assert parameters.keys() == state.keys()
        with torch.no_grad():
            for name, value in state.items():
                parameters[name].copy_(value)
        return model

    def examples(self, task: str, split: Split, count: int, seed: int) -> list[TokenizedExample]:
        """Examples as token ids."""
        return [encode(self.tokenizer, e) for e in draw(TASKS[task], split, count, seed)]

    def seconds(self) -> float:
        """What all runs that are there took, in seconds."""
        return sum(float(json.loads(p.read_text(encoding="utf-8"))["seconds"]) for p in self._reports())

    def _reports(self) -> Iterator[Path]:
        yield from self.work.glob("*-seed*.json")

    def _tune(self, run: TuningRun) -> _Tuned:
        how = self.setting.tasks[run.task]
        torch.manual_seed(run.seed)
        prefill, scheme = load_model(self.base), COMPARED[run.scheme]
        decode = prefill if scheme.one_module else load_model(self.base)
        module = TwoModule(prefill, decode, scheme)
        train: Sequence[TokenizedExample] = self.examples(run.task, "train", how.examples, run.seed)
        validation = self.examples(run.task, "validation", self.setting.held_out, 0)
        pad = self.tokenizer.pad_token_id
        batch = self.setting.batch
        loss = tune(module, train, validation, rate=run.rate, batch=batch, pad=pad, seed=run.seed)
        return _Tuned(module.tuned, loss)


def _do(what: tuple[Path, Path, Setting, int, TuningRun]) -> str:
    base, work, setting, threads, run = what
    torch.set_num_threads(threads)
    lines: list[str] = []
    TuningRuns(base, work, setting, lines.append).loss(run)
    return "".join(lines)


@dataclass(frozen=True)
class _Tuned:
    model: Any
    loss: float
