"""The report of a benchmark: one format, one writer and one reader.

A benchmark makes a list of `Run`s, passes them to `new_report` and writes the result with `write_report`. Figures and
tables are drawn from reports that `read_report` returns.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator
from rich.table import Table

from sun_sglang.bench.provenance import JsonObject, Machine, as_json, git_revision, installed_versions, this_machine
from sun_sglang.errors import UserError
from sun_sglang.strict import Strict, first_invalid

# folder of the committed reports, in a checkout
RESULTS = Path("bench/results")
Case: TypeAlias = dict[str, str | int | float | bool]
Outcome = Literal["passed", "failed", "skipped"]


class ReportError(UserError):
    """A file is not a report; the message names the file and the problem."""


class Run(Strict):
    """One measured repetition of one case.

    Attributes:
        case: what was compared, such as `{"balancer": "sun"}`; empty where a benchmark has one case.
        repetition: number of the repetition, from 0; None where the case is not repeated.
        seed: seed of this run; None where it has none of its own.
        outcome: verdict of a benchmark that checks something; None where nothing is checked.
        message: why the run failed or was skipped; empty otherwise.
        values: measured numbers, by quantity. The report has a unit for each.
        details: facts that are not one number, by name.
    """

    case: Case = Field(default_factory=dict)
    repetition: int | None = None
    seed: int | None = None
    outcome: Outcome | None = None
    message: str = ""
    values: dict[str, int | float] = Field(default_factory=dict)
    details: JsonObject = Field(default_factory=dict)


class Median(Strict):
    """The median of one quantity over the repetitions of one case, and its spread.

    Attributes:
        case: the case of the runs.
        quantity: key of their `values`.
        median: the median, in the quantity's unit.
        least: the smallest value; None: not recorded.
        most: the largest value; None: not recorded.
        repetitions: number of values.
    """

    case: Case
    quantity: str
    median: int | float
    least: int | float | None
    most: int | float | None
    repetitions: int


class Report(Strict):
    """All that one benchmark measured.

    A field that was not recorded is None or empty: some reports were converted from older formats.

    Attributes:
        name: the benchmark: its folder below `bench/` and its module, such as `router_speed`.
        command: the command line, without paths of the machine.
        machine: where it ran.
        versions: of Python and of packages, by name.
        seeds: seeds of the whole benchmark; empty where nothing is random or runs have seeds of their own.
        revision: commit of the code; None where the checkout had changes or was not recorded.
        settings: settings of the benchmark, by name.
        units: unit of each quantity; `1` for a count or a ratio.
        runs: every measured repetition, in the order of measurement. Empty where an older report kept medians only.
        medians: of every quantity of every repeated case; `new_report` derives them from the runs.
    """

    name: str
    command: str
    machine: Machine
    versions: dict[str, str]
    seeds: tuple[int, ...] = ()
    revision: str | None = None
    settings: JsonObject = Field(default_factory=dict)
    units: dict[str, str]
    runs: tuple[Run, ...] = ()
    medians: tuple[Median, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Report:
        quantities = {key for run in self.runs for key in run.values} | {m.quantity for m in self.medians}
        if missing := sorted(quantities - self.units.keys()):
            raise ValueError(f"no unit for: {', '.join(missing)}")
        stored = {_key(m.case, m.quantity): m for m in self.medians}
        for derived in medians_of(self.runs):
            if stored.get(_key(derived.case, derived.quantity)) != derived:
                raise ValueError(f"the median of `{derived.quantity}` in {derived.case} does not follow from the runs")
        return self

    @property
    def passed(self) -> bool:
        """Whether a run passed and none failed."""
        outcomes = {run.outcome for run in self.runs}
        return "failed" not in outcomes and "passed" in outcomes

    def select(self, quantity: str, **case: str | int | float | bool) -> Iterator[Run]:
        """Yield the runs that measured a quantity and whose case has these entries."""
        for run in self.runs:
            if quantity in run.values and case.items() <= run.case.items():
                yield run

    def median(self, quantity: str, case: Case) -> float:
        """Return the median of a quantity over a case's repetitions, or the value of its only run.

        Raises:
            KeyError: the report has no such value.
        """
        key = _key(case, quantity)
        for found in self.medians:
            if _key(found.case, found.quantity) == key:
                return found.median
        for run in self.select(quantity):
            if run.case == case:
                return run.values[quantity]
        raise KeyError(f"{self.name}: no `{quantity}` in {case}")


def new_report(
    name: str,
    command: str,
    runs: Sequence[Run],
    units: Mapping[str, str],
    *,
    seeds: Sequence[int] = (),
    settings: Mapping[str, object] | None = None,
    machine: Machine | None = None,
    versions: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of a benchmark that ran now, on this machine, with its medians.

    Args:
        name: the benchmark's folder and module, such as `router_speed`.
        command: the command line, without paths of the machine.
        runs: every measured repetition.
        units: unit of each quantity.
        seeds: seeds of the whole benchmark.
        settings: its settings, by name.
        machine: where it ran; by default `this_machine()`.
        versions: by default `installed_versions()`.
    """
    return Report(
        name=name,
        command=command,
        machine=machine or this_machine(),
        versions=dict(versions if versions is not None else installed_versions()),
        seeds=tuple(seeds),
        revision=git_revision(),
        settings=as_json(settings or {}),
        units=dict(units),
        runs=tuple(runs),
        medians=medians_of(runs),
    )


def medians_of(runs: Sequence[Run]) -> tuple[Median, ...]:
    """Return the median of every quantity of every case that was repeated."""
    cases: dict[str, Case] = {}
    values: dict[str, dict[str, list[int | float]]] = {}
    for run in runs:
        if run.repetition is None:
            continue
        key = _key(run.case)
        cases[key] = run.case
        for quantity, value in run.values.items():
            values.setdefault(key, {}).setdefault(quantity, []).append(value)
    return tuple(
        Median(
            case=cases[key],
            quantity=quantity,
            median=statistics.median(found),
            least=min(found),
            most=max(found),
            repetitions=len(found),
        )
        for key, quantities in values.items()
        for quantity, found in quantities.items()
    )


def write_report(report: Report, file: Path) -> None:
    """Write a report as JSON, with one line for each run and each median; create its folder."""
    content = report.model_dump(mode="json")
    # an absent field of a run has its default
    content["runs"] = [run.model_dump(mode="json", exclude_defaults=True) for run in report.runs]
    parts = [f' "{key}": {_json(value)}' for key, value in content.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_report(file: Path) -> Report:
    """Read a report.

    Raises:
        ReportError: the file cannot be read or is not a report.
    """
    try:
        return Report.model_validate_json(file.read_bytes())
    except OSError as e:
        raise ReportError(f"{file}: {e.strerror or e}") from e
    except ValidationError as e:
        raise ReportError(f"{file}: {first_invalid(e, Report).describe()}") from e


def median_table(report: Report) -> Table:
    """Return a table for a terminal with the median and the spread of every quantity of every repeated case."""
    columns = list(dict.fromkeys(key for m in report.medians for key in m.case))
    table = Table(*columns, "quantity", "median", "least", "most", "unit")
    for m in report.medians:
        numbers = ("" if value is None else f"{value:,.5g}" for value in (m.median, m.least, m.most))
        table.add_row(*(str(m.case.get(key, "")) for key in columns), m.quantity, *numbers, report.units[m.quantity])
    return table


def _key(case: Case, *more: str) -> str:
    return json.dumps([sorted(case.items()), *more])


def _json(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return (
            "[\n" + ",\n".join(f"  {json.dumps(item, ensure_ascii=False, allow_nan=False)}" for item in value) + "\n ]"
        )
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
