"""The JSON file of a benchmark. `docs/bench.md` explains it; `sun bench --schema` prints its JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.load.metrics.summary import Metrics
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.provenance import JsonObject, Machine
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.strict import Strict, first_invalid


class TargetReport(Strict):
    """What was measured.

    Attributes:
        kind: a `deployment` of this machine, or a `url`.
        name: name of the topology file of a deployment, or the URL.
        workers: workers of the measured tasks; None where unknown.
        decode_workers: how many of them decode.
    """

    kind: Literal["deployment", "url"]
    name: str
    workers: int | None
    decode_workers: int | None


class PlanReport(Strict):
    """What was sent.

    Attributes:
        sha256: identifies the plan: equal settings and files give an equal plan on every machine.
        origin: files that it was made from, each with its SHA-256 and source.
    """

    sha256: str
    origin: JsonObject


class Counts(Strict):
    """Requests of the whole run, the warm-up included.

    Attributes:
        preflight: sent before the run, one for each task; not in the other counts.
        sent: sent in the run.
        succeeded: answered whole.
        failed: failed.
        cut_off: still in flight when the run ended; cancelled then.
    """

    preflight: int
    sent: int
    succeeded: int
    failed: int
    cut_off: int


class ErrorReport(Strict):
    """Failed requests of one kind.

    Attributes:
        kind: such as `http_429`, `timeout`, `connection`, `stream`, `wrong_length`.
        count: how many, in the whole run.
        in_window: how many of them in the window.
        tasks: how many of each task, in the whole run.
        first_message: the reason of the first.
    """

    kind: str
    count: int
    in_window: int
    tasks: dict[str, int]
    first_message: str


class ClientReport(Strict):
    """The load of the client itself in the window.

    Attributes:
        cpu_share: CPU time of this process as a share of one core; None where it was not sampled.
        lag: by how much this process was late: its timers, and in an open loop the sending of each request. None where
            it was not sampled.
    """

    cpu_share: float | None
    lag: Distribution | None


class TaskReport(Strict):
    """One task.

    Attributes:
        sent: requests sent in the whole run.
        offered_share: its share of the requests that were offered in the window: the realised mix.
        metrics: its metrics.
    """

    sent: int
    offered_share: float | None
    metrics: Metrics


class RunReport(Strict):
    """One run.

    Attributes:
        started: date and time of its start, UTC.
        ending: how it ended; `cut_short`: the user stopped it, and the window is shorter than planned.
        valid: whether the numbers may be used; `problems` says why not.
        problems: why the run is not valid.
        notes: what a reader of the numbers should know.
        window: what was measured, in seconds after the start of the run.
        counts: requests of the whole run.
        total: the metrics over all tasks.
        tasks: each task, in the order of the ranking.
        fairness: Jain's index over the tasks' `achieved_ratio`; 1 is fair.
        errors: failed requests by kind, the most frequent first.
        client: the load of the client itself.
    """

    started: str
    ending: Ending
    valid: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    window: Window
    counts: Counts
    total: Metrics
    tasks: dict[str, TaskReport]
    fairness: float | None
    errors: tuple[ErrorReport, ...]
    client: ClientReport


class BenchResult(Strict):
    """The file.

    Attributes:
        format: version of this format.
        command: the command line.
        settings: all settings, the defaults included.
        target: what was measured.
        plan: what was sent.
        machine: where the client ran.
        versions: of Python and of packages, by name.
        revision: commit of the code; None where it is unknown or had changes.
        run: the measurement.
    """

    format: Literal["sun-bench-1"] = "sun-bench-1"
    command: str
    settings: BenchSettings
    target: TargetReport
    plan: PlanReport
    machine: Machine
    versions: dict[str, str] = Field(default_factory=dict)
    revision: str | None
    run: RunReport


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
    partial = file.with_name(file.name + ".new")
    try:
        partial.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    except OSError as e:
        raise BenchError(f"--output: {file} cannot be written ({e.strerror or e})") from e
