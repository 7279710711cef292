"""The points of a grid, and the order in which systems are measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

from sun_sglang.bench.load.errors import FlagError, flag_name
from sun_sglang.bench.serving.settings import BenchSettings, Swept, settings_at

MOST_POINTS = 1_000
"""The most points of a grid."""

_T = TypeVar("_T")


class Point(NamedTuple):
    """One point of a grid.

    Attributes:
        number: its number, from 0.
        values: the settings that the lists have.
        settings: all settings there.
    """

    number: int
    values: Mapping[str, Swept]
    settings: BenchSettings


def grid(settings: BenchSettings) -> tuple[Point, ...]:
    """Return every combination of the lists; the last list varies fastest. One point where there are no lists.

    Raises:
        BenchError: a value is wrong or named twice, or there are too many points.
    """
    for name, values in settings.sweep.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise FlagError(name, f"{twice[0]} is named twice")
    names = list(settings.sweep)
    combinations = list(product(*settings.sweep.values()))
    if len(combinations) > MOST_POINTS:
        lists = " x ".join(f"{len(settings.sweep[name])} of {flag_name(name)}" for name in names)
        raise FlagError(names[0], f"{lists} make {len(combinations)} points, more than {MOST_POINTS}")
    points = []
    for number, combination in enumerate(combinations):
        chosen = dict(zip(names, combination, strict=True))
        points.append(Point(number, chosen, settings_at(settings, chosen)))
    return tuple(points)


def in_turn(systems: Sequence[_T], repetition: int) -> tuple[_T, ...]:
    """Return the systems in the order of a repetition: each repetition starts with the next one.

    A drift of the machine, such as its temperature, then does not fall on one system.
    """
    first = repetition % len(systems)
    return (*systems[first:], *systems[:first])
