"""One point of load: what tells two measurements apart that are not repetitions of each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sun_sglang.bench.load.workload.settings import WorkloadSettings
from sun_sglang.bench.serving.report.study.names import readable

Axis = Literal["zipf", "request_rate", "concurrency", "isl", "osl"]
"""A setting that a figure can have as its axis."""

AXES: tuple[Axis, ...] = get_args(Axis)

# other seeds and lengths of a window measure the same point; the ranking of the tasks is no load of its own
_SAME_POINT = frozenset(
    {"tasks", "random_seed", "prompt_seed", "token_ids", "warmup_duration", "benchmark_duration", "workload", *AXES}
)


@dataclass(frozen=True)
class Point:
    """A load. A field is None where it is not set, and where it was left out to compare points by the others.

    Attributes:
        workload: `requests`, or the pattern of the agents.
        zipf: exponent of the popularity of tasks.
        request_rate: requests, or sessions, per second.
        concurrency: requests, or sessions, in flight.
        isl: length of prompts.
        osl: length of answers.
        others: the other settings that differ from their defaults, by name.
    """

    workload: str
    zipf: float | None = None
    request_rate: float | None = None
    concurrency: int | None = None
    isl: str | None = None
    osl: str | None = None
    others: tuple[tuple[str, str], ...] = ()

    @property
    def unit(self) -> str:
        """What the rate and the concurrency count."""
        return "requests" if self.workload == "requests" else "sessions"

    def value(self, axis: Axis) -> float | str | None:
        """Return the value on an axis; a length that is one number is a number."""
        found: float | str | None = getattr(self, axis)
        return float(found) if isinstance(found, str) and found.isdecimal() else found

    def without(self, axis: Axis) -> Point:
        """Return the point with one setting left out."""
        left_out: dict[str, Any] = {axis: None}
        return dataclasses.replace(self, **left_out)


def point_of(settings: WorkloadSettings) -> Point:
    """Return the point that settings describe."""
    default = WorkloadSettings.model_fields
    others = tuple(
        (name, _text(name, value))
        for name, value in settings
        if name not in _SAME_POINT and value != default[name].get_default()
    )
    # a file or a pattern of agents sets the lengths itself
    lengths = settings.workload == "requests" and not settings.input_file
    return Point(
        settings.workload,
        settings.zipf,
        settings.request_rate,
        settings.concurrency,
        settings.isl if lengths else None,
        settings.osl if lengths or settings.osl != default["osl"].default else None,
        others,
    )


def _text(name: str, value: object) -> str:
    if name == "input_file" and isinstance(value, tuple):
        return readable(", ".join(Path(str(file)).name for file in value))
    return f"{value:g}" if isinstance(value, float) else readable(str(value))


def distance_from_middle(point: Point, among: Sequence[Point]) -> int:
    """Return by how many values a point is away from the middle of the axes, of an even number the upper middle.

    Args:
        point: one of the points.
        among: the points, whose values are the axes.
    """
    distance = 0
    for axis in AXES:
        values = sorted({order(other.value(axis)) for other in among})
        distance += abs(values.index(order(point.value(axis))) - len(values) // 2)
    return distance


def order(value: float | str | None) -> tuple[bool, float, str]:
    """Return the sort key of a value on an axis: numbers by size, before texts."""
    return (isinstance(value, str), value if isinstance(value, float | int) else 0.0, str(value))


def axis_label(axis: Axis, unit: str) -> str:
    """Return the name of an axis with its unit.

    Args:
        axis: the axis.
        unit: `requests` or `sessions`.
    """
    return {
        "zipf": "Zipf exponent (0: all tasks equal)",
        "request_rate": f"offered {unit} per second",
        "concurrency": f"{unit} in flight, at most",
        "isl": "prompt tokens",
        "osl": "output tokens of a request",
    }[axis]


def tick_label(value: float | str) -> str:
    """Return a value of an axis as text."""
    return value if isinstance(value, str) else f"{value:g}"


def varying(points: Iterable[Point]) -> frozenset[str]:
    """Return the names of the settings in which some points differ."""
    found = list(points)
    names = [field.name for field in dataclasses.fields(Point)]
    return frozenset(name for name in names if len({getattr(point, name) for point in found}) > 1)


def describe(point: Point, only: Collection[str] | None = None) -> str:
    """Return a point as text, such as `Zipf 1.5, 8 requests in flight`.

    Args:
        point: the point.
        only: names of the settings to describe; None: all.
    """
    return ", ".join(text for name, text in _parts(point) if only is None or name in only)


def _parts(point: Point) -> Sequence[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    if point.workload != "requests":
        parts.append(("workload", f"{point.workload} agents"))
    if point.zipf is not None:
        parts.append(("zipf", f"Zipf {point.zipf:g}"))
    if point.request_rate is not None:
        parts.append(("request_rate", f"{point.request_rate:g} {point.unit}/s"))
    if point.concurrency is not None:
        most = "at most " if point.request_rate is not None else ""
        parts.append(("concurrency", f"{most}{point.concurrency} {point.unit} in flight"))
    if point.isl is not None:
        parts.append(("isl", f"ISL {point.isl}"))
    if point.osl is not None:
        parts.append(("osl", f"OSL {point.osl}"))
    parts.extend(("others", f"{name.replace('_', ' ')} {value}") for name, value in point.others)
    return parts
