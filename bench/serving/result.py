"""The JSON file of a benchmark. `docs/bench.md` explains it; `sun bench --schema` prints its JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.metrics.interval import Interval
from sun_sglang.bench.load.metrics.repeated import Repeated
from sun_sglang.bench.provenance import JsonObject, Machine
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings, Swept, settings_at
from sun_sglang.files.replace_file import replace_file
from sun_sglang.strict import Strict, first_invalid


class SystemReport(Strict):
    """A serving system that was measured.

    Attributes:
        name: its name in this file.
        kind: a `deployment` that was running, a `url`, or a `topology` or `peer` file whose servers were started.
        workers: workers of the measured tasks; None where unknown.
        decode_workers: how many of them decode.
        definition: the content of its file; empty for a server that was running.
        error: why it could not be measured; None where it could.
    """

    name: str
    kind: Literal["deployment", "url", "topology", "peer"]
    workers: int | None = None
    decode_workers: int | None = None
    definition: JsonObject = Field(default_factory=dict)
    error: str | None = None


class PlanReport(Strict):
    """What was sent.

    Attributes:
        sha256: identifies the plan of the first repetition: equal settings and files give an equal plan on every
            machine.
        origin: files that it was made from, each with its SHA-256 and source.
    """

    sha256: str
    origin: JsonObject


class SearchStep(Strict):
    """One rate that a search tried.

    Attributes:
        request_rate: requests per second.
        within: whether enough requests were within the objectives.
        run: the run at this rate.
    """

    request_rate: float
    within: bool
    run: RunReport


class SearchReport(Strict):
    """A search for the highest rate at which enough requests are within the objectives.

    Attributes:
        repetition: its number, from 0.
        max_rate: the highest rate at which enough were; None where there was none.
        failed_rate: the lowest rate above it at which too few were; None where there was none.
        complete: whether the search ended by its own rule; else the user stopped it.
        steps: the rates in the order in which they were tried.
    """

    repetition: int
    max_rate: float | None
    failed_rate: float | None
    complete: bool
    steps: tuple[SearchStep, ...]


class SystemPoint(Strict):
    """What one system did at one point.

    Attributes:
        runs: its runs by repetition; empty where it was not measured.
        searches: its searches for the highest rate, by repetition.
        summary: numbers over the repetitions that are valid, by metric: the path in `total` of a run, such as
            `output_token_throughput` or `time_to_first_token.p50`; `sessions.session_latency.p95` and others of
            `sessions`; `fairness`; `max_rate` of the searches.
    """

    runs: tuple[RunReport, ...] = ()
    searches: tuple[SearchReport, ...] = ()
    summary: dict[str, Repeated] = Field(default_factory=dict)


class PointReport(Strict):
    """One point of a grid; a benchmark without lists has one.

    Attributes:
        values: the settings of this point that the lists have, by name.
        plan: what was sent.
        systems: each system by name.
        ratios: for each system but the first, by name: the numbers of the first system by those of that system, over
            the repetitions that both have. By metric, as in `summary`.
    """

    values: dict[str, Swept] = Field(default_factory=dict)
    plan: PlanReport
    systems: dict[str, SystemPoint]
    ratios: dict[str, dict[str, Interval]] = Field(default_factory=dict)


class BenchResult(Strict):
    """The file.

    Attributes:
        format: version of this format.
        command: the command line.
        settings: all settings, the defaults included.
        machine: where the client ran.
        versions: of Python and of packages, by name.
        revision: commit of the code; None where it is unknown or had changes.
        notes: what a reader of the whole file should know.
        systems: what was measured; the first is compared with each of the others.
        points: the points of the grid.
    """

    format: Literal["sun-bench-2"] = "sun-bench-2"
    command: str
    settings: BenchSettings
    machine: Machine
    versions: dict[str, str] = Field(default_factory=dict)
    revision: str | None
    notes: tuple[str, ...] = ()
    systems: tuple[SystemReport, ...] = Field(min_length=1)
    points: tuple[PointReport, ...] = Field(min_length=1)

    def settings_of(self, point: PointReport) -> BenchSettings:
        """Return the settings of one point."""
        return settings_at(self.settings, point.values)

    def system(self, name: str) -> SystemReport:
        """Return a system by name."""
        return next(system for system in self.systems if system.name == name)

    @property
    def runs(self) -> tuple[RunReport, ...]:
        """All runs, those of searches included."""
        found = [system for point in self.points for system in point.systems.values()]
        return tuple(run for one in found for run in (*one.runs, *(step.run for s in one.searches for step in s.steps)))


def result_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the file."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    schema = BenchResult.model_json_schema(mode="serialization")
    return {"$schema": dialect, **schema, "title": "sun bench result"}


def read_result(file: Path) -> BenchResult:
    """Read a result.

    Raises:
        BenchError: the file cannot be read or is no result.
    """
    try:
        return BenchResult.model_validate_json(file.read_bytes())
    except OSError as e:
        raise BenchError(f"{file}: {e.strerror or e}") from e
    except ValidationError as e:
        raise BenchError(f"{file}: {first_invalid(e, BenchResult).describe()}") from e


def write_result(result: BenchResult, file: Path) -> None:
    """Write a result; an earlier file of that name is replaced as a whole.

    Raises:
        BenchError: the file cannot be written.
    """
    text = result.model_dump_json(indent=1) + "\n"
    try:
        replace_file(file, lambda new: new.write_text(text, encoding="utf-8"))
    except OSError as e:
        raise BenchError(f"--output: {file} cannot be written ({e.strerror or e})") from e
