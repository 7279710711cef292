"""One evaluation: several benchmarks, each by its harness, and one report."""

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
    """Runs benchmarks one after the other and keeps what they found.

    Args:
        endpoint: the router.
        settings: how to ask.
        tokenizer: what the user gave; None to take the task's own.
        directory: for what harnesses with files of their own write.
        say: shows progress.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: EvaluationSettings,
        tokenizer: Path | None,
        directory: Path,
        say: Callable[[str], object],
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._tokenizer = tokenizer
        self._say = say
        self._tasks: Any = None
        self._results: list[BenchmarkResult] = []
        self._harnesses: set[str] = set()
        self._began = datetime.now(UTC)
        # of its own for each run: both harnesses would go on from an earlier run's answers
        self._directory = directory / self._began.strftime("%Y%m%d-%H%M%S-%f")
        self.samples: list[dict[str, Any]] = []

    def prepare(self, benchmarks: Sequence[Benchmark], include: Path | None) -> None:
        """Check everything that can be checked before the first question.

        Raises:
            UserError: a harness is absent, or a benchmark or a tokenizer cannot be found.
        """
        self._harnesses = {b.harness for b in benchmarks}
        if self._settings.limit and self._harnesses != {"lm-eval"}:
            raise UserError(
                "--limit: EvalPlus and BFCL ask all their questions; leave it out, or ask them by themselves"
            )
        for harness in (evalplus, bfcl):
            if harness.__name__.rpartition(".")[2] in self._harnesses:
                require_program(harness.PROGRAM, harness.PACKAGE)
        names = [b.name for b in benchmarks if b.harness == "lm-eval"]
        if names:
            lm_eval.require_lm_eval()
            self._say("reading lm-eval's benchmarks")
            self._tasks = lm_eval.new_tasks(names, include)
        for benchmark in benchmarks:
            self._model(benchmark)

    def run(self, benchmark: Benchmark) -> None:
        """Run one benchmark.

        Raises:
            UserError: it could not be run; see each harness.
        """
        self._say(f"{benchmark} at {self._endpoint.url}")
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
                self._say(f"lm-eval warns, {count} x: {warning}" if count > 1 else f"lm-eval warns: {warning}")
            self._results.extend(found.results)
            self.samples.extend(found.samples)

    def report(self, command: str) -> EvaluationReport:
        """What was found, with what it takes to find it again."""
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
        """Where the task's tokenizer is; None where the harness does not need it."""
        needed = benchmark.harness == "bfcl" or (benchmark.harness == "lm-eval" and self._settings.prompt == "template")
        return self._endpoint.tokenizer(benchmark.task, self._tokenizer) if needed else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # a program of another environment
        return "of its own environment"
