"""Tune the modules that the table's rows need, each by `sun train` in a process of its own. Finished ones are kept."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.provenance import git_revision
from sun_sglang.bench.smollm2.data import TASKS, data_file
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.quantized.recipes import BASE, FULL, Setting, Tuning, recipe_of, with_paths
from sun_sglang.bench.smollm2.quantized.rows import Module
from sun_sglang.bench.training.grids import Grid
from sun_sglang.bench.training.stored import stored, stored_folder
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.train.data.examples import Split, draw, write_jsonl


class Tunings:
    """Does tunings, and reuses those that are done.

    Args:
        base: the model to start from, and the decoder in 16 bits.
        grids: the grids of quantised weights.
        work: folder of data, modules and results.
        setting: the size of the experiment.
        threads: CPU threads of a tuning.
        log: receives a line for each tuning.
    """

    def __init__(
        self, base: Path, grids: Iterable[Grid], work: Path, setting: Setting, threads: int, log: Callable[[str], None]
    ) -> None:
        self._base, self._work, self._setting, self._threads, self._log = base, work, setting, threads, log
        self._grids = {grid.name: grid for grid in grids}

    def do_all(self, tunings: Iterable[Tuning], jobs: int) -> None:
        """Do the tunings that are not done, in order, `jobs` at once."""
        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(self.result, tunings):
                pass

    def directory(self, module: Module) -> Path:
        """Return the directory of a module whose tuning is done; quantise it if that is not done."""
        dense = self._base if module.tuning is None else self._output(module.tuning)
        if module.grid is None:
            return dense
        out = self._work / "quantized" / f"{dense.name}-{module.grid}"
        return stored_folder(out, partial(self._grids[module.grid].quantize, dense))

    def result(self, tuning: Tuning) -> dict[str, Any]:
        """Return the result of a tuning; do the tuning if it is not done.

        Returns:
            `validation_loss`; `losses`, by learning rate; `cpu_s`, the CPU seconds, None where an earlier run began the
            tuning; `decoder`, the revision that its `sun.json` names; and `revision`, the commit of the code.

        Raises:
            ModelError: `sun train` failed.
        """
        start, decoder = self._start(tuning), self._decoder(tuning)
        subject: dict[str, object] = {
            "recipe": recipe_of(tuning, self._setting),
            "examples": self._setting.examples[tuning.task],
            "base": weights_revision(start),
            "frozen": None if decoder is None else weights_revision(decoder),
        }
        return stored(self._file(tuning, "json"), subject, lambda: self._train(tuning))

    def _start(self, tuning: Tuning) -> Path:
        return self.directory(Module(None if tuning.retuned_for is None else tuning.first))

    def _decoder(self, tuning: Tuning) -> Path | None:
        """Return the frozen decoder; None where both sides are tuned."""
        if tuning.scheme == FULL:
            return None
        return self.directory(Module(grid=None if tuning.retuned_for in (None, BASE) else tuning.retuned_for))

    def _output(self, tuning: Tuning) -> Path:
        return self._work / "modules" / tuning.name

    def _file(self, tuning: Tuning, kind: str) -> Path:
        return self._work / "modules" / f"{tuning.name}.{kind}"

    def _train(self, tuning: Tuning) -> dict[str, object]:
        out, log, file = self._output(tuning), self._file(tuning, "log"), self._file(tuning, "yaml")
        begun = out.exists()
        recipe = with_paths(
            recipe_of(tuning, self._setting),
            base=self._start(tuning),
            decoder=self._decoder(tuning),
            output=out,
            train=self._data(tuning, "train", self._setting.examples[tuning.task]),
            validation=self._data(tuning, "validation", self._setting.validation),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        command = sun_command("train", str(file), "--merge", "--resume", "--threads", str(self._threads))
        code, cpu_s = _run(command, log)
        if code != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise ModelError(f"{file}: `sun train` failed ({lines[-1] if lines else 'no output'}); see {log}")
        losses = json.loads((out / "training" / "search.json").read_text(encoding="utf-8"))["losses"]
        loss = min(value for value in losses.values() if value is not None)
        self._log(f"{tuning.name}: validation loss {loss:.4f}, {cpu_s:.0f} CPU s{', begun before' if begun else ''}")
        module = json.loads((out / "sun.json").read_text(encoding="utf-8"))
        return {
            "validation_loss": loss,
            "losses": losses,
            "cpu_s": None if begun else cpu_s,
            "decoder": module["decoder"],
            "revision": git_revision(),
        }

    def _data(self, tuning: Tuning, split: Split, count: int) -> Path:
        """Write the examples of a task; the same bytes each time."""
        file = data_file(self._work / "data" / tuning.name, tuning.task, split)
        write_jsonl(file, draw(TASKS[tuning.task], split, count, tuning.seed if split == "train" else 0))
        return file


def _run(command: Sequence[str], log: Path) -> tuple[int, float]:
    """Run a command with its output in a file; return its exit code, and its CPU seconds: other work does not count."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
