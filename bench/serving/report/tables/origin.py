"""How the numbers were made, and how to make them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from sun_sglang.bench.serving.report.study.point import describe, point_of, varying
from sun_sglang.bench.serving.report.study.study import Source, Study
from sun_sglang.bench.serving.report.tables.table import Cell, Table
from sun_sglang.bench.serving.settings import BenchSettings


@dataclass(frozen=True)
class Origin:
    """The origin of one file.

    Attributes:
        name: its name.
        command: the command line.
        facts: machine, versions, commit and dates.
        settings: the settings that are not the defaults.
        defaults: the other settings.
        plans: what was sent at each point.
    """

    name: str
    command: str
    facts: Table
    settings: Table
    defaults: Table
    plans: Table


def origin_of(source: Source) -> Origin:
    """Return how a file was made."""
    result = source.result
    facts = tuple((Cell(name), Cell(value)) for name, value in _facts(source) if value)
    settings = list(_settings(result.settings))
    points = [point_of(result.settings_of(point).workload) for point in result.points]
    shown = varying(points)
    plans = tuple(
        (Cell(describe(point, shown) or describe(point)), Cell(report.plan.sha256), Cell(_inputs(report.plan.origin)))
        for point, report in zip(points, result.points, strict=True)
    )
    return Origin(
        source.name,
        result.command,
        Table("", ("", ""), facts, heads=2),
        _table_of([(name, value) for name, value, is_set in settings if is_set]),
        _table_of([(name, value) for name, value, is_set in settings if not is_set]),
        Table("", ("load", "SHA-256 of the requests", "made from"), plans, heads=3),
    )


def systems(study: Study) -> Table:
    """Return what was measured."""
    rows = tuple(
        (
            Cell(system.label),
            Cell(system.report.kind),
            Cell("unknown" if system.report.workers is None else str(system.report.workers)),
            Cell("unknown" if system.report.decode_workers is None else str(system.report.decode_workers)),
        )
        for system in study.systems
    )
    return Table("", ("system", "kind", "workers", "decode workers"), rows, heads=2)


def definitions(study: Study) -> tuple[tuple[str, str], ...]:
    """Return the file of each system that was started, as JSON, by its label."""
    return tuple(
        (system.label, orjson.dumps(system.report.definition, option=orjson.OPT_INDENT_2).decode())
        for system in study.systems
        if system.report.definition
    )


def _table_of(settings: Sequence[tuple[str, str]]) -> Table:
    rows = tuple((Cell(name), Cell(value)) for name, value in settings)
    return Table("", ("setting", "value"), rows, heads=2)


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    result = source.result
    runs = sorted(run.started for run in result.runs)
    if runs:
        yield "first run", runs[0]
        yield "last run", runs[-1]
    yield "commit", result.revision or "unknown: the code had changes, or is not in a checkout"
    machine = result.machine
    yield "machine of the client", str(machine)
    yield "kernel", machine.kernel or ""
    yield "GPUs", ", ".join(machine.gpus or ())
    for name, value in machine.details.items():
        yield name, str(value)
    yield "versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())


def _settings(settings: BenchSettings) -> Iterator[tuple[str, str, bool]]:
    """Yield each setting: its name, its value, and whether it differs from the default."""
    for model in (settings, settings.workload):
        fields = type(model).model_fields
        for name, value in model:
            # the lists are shown at the settings that have them
            if name != "sweep" and (name != "workload" or isinstance(value, str)):
                swept = settings.sweep.get(name) if model is settings.workload else None
                changed = swept is not None or fields[name].is_required()
                yield (
                    name,
                    _text(swept or value),
                    changed or value != fields[name].get_default(call_default_factory=True),
                )


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value)) or "none"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inputs(origin: Mapping[str, object]) -> str:
    """Return the files of a plan with what is known of each; its content is JSON of the workload."""
    files = origin.get("files")
    if not isinstance(files, list) or not files:
        return "random tokens"
    return "; ".join(_text(file) for file in files)
