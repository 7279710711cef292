"""Run several benchmarks, each with its harness, and make one report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sun_sglang import __version__
from sun_sglang.errors import UserError
from sun_sglang.evaluation.benchmark import Benchmark
from sun_sglang.evaluation.endpoint import Endpoint
from sun_sglang.evaluation.harnesses import bfcl, evalplus, lm_eval
from sun_sglang.evaluation.harnesses.external import require_program
from sun_sglang.evaluation.harnesses.lm_eval import EvaluationSettings
from sun_sglang.evaluation.result import BenchmarkResult, EvaluationReport


class Session:
    """Runs benchmarks one after the other and keeps their results.

    Args:
        endpoint: the router.
        settings: settings of the questions.
        tokenizer: the user's tokenizer directory; None for the task's own.
        directory: directory for the files of EvalPlus and BFCL.
        log: receives lines of progress.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: EvaluationSettings,
        tokenizer: Path | None,
        directory: Path,
        log: Callable[[str], object],
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._tokenizer = tokenizer
        self._log = log
        self._tasks: Any = None
        self._results: list[BenchmarkResult] = []
        self._harnesses: set[str] = set()
        self._began = datetime.now(UTC)
        # a new directory for each run: both harnesses would continue from the answers of an earlier run
        self._directory = directory / self._began.strftime("%Y%m%d-%H%M%S-%f")
        self.samples: list[dict[str, Any]] = []

    def prepare(self, benchmarks: Sequence[Benchmark], include: Path | None) -> None:
        """Check everything that can be checked before the first question.

        Raises:
            UserError: a harness is missing, or a benchmark or a tokenizer cannot be found.
        """
        self._harnesses = {b.harness for b in benchmarks}
        if self._settings.limit and self._harnesses != {"lm-eval"}:
            raise UserError(
                "--limit: EvalPlus and BFCL always ask all questions; remove --limit, or run them separately"
            )
        for harness in (evalplus, bfcl):
            if harness.__name__.rpartition(".")[2] in self._harnesses:
                require_program(harness.PROGRAM, harness.PACKAGE)
        names = [b.name for b in benchmarks if b.harness == "lm-eval"]
        if names:
            lm_eval.require_lm_eval()
            self._log("reading lm-eval's benchmarks")
            self._tasks = lm_eval.new_tasks(names, include)
        for benchmark in benchmarks:
            self._model(benchmark)

    def run(self, benchmark: Benchmark) -> None:
        """Run one benchmark.

        Raises:
            UserError: the harness fails; see its `run_benchmark`.
        """
        self._log(f"{benchmark} at {self._endpoint.url}")
        model, settings = self._model(benchmark), self._settings
        if benchmark.harness == "evalplus":
            self._results.append(
                evalplus.run_benchmark(benchmark, self._endpoint, self._directory, unsafe_code=settings.unsafe_code)
            )
        elif benchmark.harness == "bfcl":
            assert model is not None
            self._results.extend(
                bfcl.run_benchmark(benchmark, self._endpoint, self._directory, model, settings.concurrency)
            )
        else:
            found = lm_eval.run_benchmark(benchmark, self._endpoint, settings, self._tasks, model)
            for warning, count in found.warnings.items():
                self._log(f"lm-eval warns, {count} x: {warning}" if count > 1 else f"lm-eval warns: {warning}")
            self._results.extend(found.results)
            self.samples.extend(found.samples)

    def report(self, command: str) -> EvaluationReport:
        """Return the report: all results, and the versions and settings to repeat them."""
        packages = {"lm-eval": "lm_eval", "evalplus": evalplus.PACKAGE, "bfcl": bfcl.PACKAGE}
        versions = {harness: _version(packages[harness]) for harness in sorted(self._harnesses)}
        return EvaluationReport(
            command=command,
            date=self._began.isoformat(timespec="seconds"),
            versions={"sun-sglang": __version__, "python": platform.python_version(), **versions},
            settings=asdict(self._settings),
            results=tuple(self._results),
        )

    def _model(self, benchmark: Benchmark) -> str | None:
        """Return the directory or id of the task's tokenizer; None where the harness needs none."""
        needed = benchmark.harness == "bfcl" or (benchmark.harness == "lm-eval" and self._settings.prompt == "template")
        return self._endpoint.tokenizer(benchmark.task, self._tokenizer) if needed else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # the harness is in another environment
        return "of its own environment"
