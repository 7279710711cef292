"""Colours and shapes of the systems, and the colours of a panel.

The drawing uses the colours of the light theme; in the page each is a variable of the style sheet, which the dark theme
sets to another. In both themes any two differ by a distance of 10 in CIELAB for each kind of colour blindness, and have
a contrast of 3.8 with the page. Every system has a shape of its own as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Look(NamedTuple):
    """The look of one system.

    Attributes:
        variable: the colour's variable in the style sheet.
        light: the colour on a light background.
        dark: the colour on a dark background.
        marker: matplotlib's letter for the shape.
        outline: the shape as an SVG path in a square of 12.
        dash: matplotlib's style of the line.
    """

    variable: str
    light: str
    dark: str
    marker: str
    outline: str
    dash: str


_COLOURS = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#f28e4b"),
    ("#007d5a", "#2fc79a"),
    ("#a8518a", "#df8fc0"),
    ("#563e08", "#e1c768"),
    ("#131417", "#e8edf1"),
    ("#4b3fa0", "#9853e1"),
    ("#882255", "#ecb0ca"),
)
_SHAPES = (
    ("o", "M6 1a5 5 0 1 0 .01 0z"),
    ("s", "M1.5 1.5h9v9h-9z"),
    ("^", "M6 1l5.2 9.6H.8z"),
    ("D", "M6 .4 11.6 6 6 11.6.4 6z"),
    ("v", "M6 11 .8 1.4h10.4z"),
    ("P", "M4 1h4v3h3v4H8v3H4V8H1V4h3z"),
    ("X", "M3 .8 6 3.8l3-3L11.2 3l-3 3 3 3L9 11.2l-3-3-3 3L.8 9l3-3-3-3z"),
    ("p", "M6 .8 11.3 4.700 9.300 11H2.700L.7 4.700z"),
)
_DASHES = ("-", "--", ":", "-.")

INK = "#1c2229"
MUTED = "#5a6572"
RULE = "#d5dae0"

_PAGE: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        # name of the variable: in a drawing and on a light background, on a dark one
        "ink": (INK, INK, "#e8ecf1"),
        "muted": (MUTED, MUTED, "#a3aebb"),
        "rule": (RULE, RULE, "#39424d"),
    }
)


def look(number: int) -> Look:
    """Return the look of a system by its position; after eight, colours repeat with another line."""
    light, dark = _COLOURS[number % len(_COLOURS)]
    marker, outline = _SHAPES[number % len(_SHAPES)]
    dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return Look(f"system-{number % len(_COLOURS)}", light, dark, marker, outline, dash)


def variables(*, dark: bool) -> dict[str, str]:
    """Return the variables of the style sheet, by name.

    Args:
        dark: for the dark theme.
    """
    found = {name: on_dark if dark else light for name, (_, light, on_dark) in _PAGE.items()}
    for number, (light, on_dark) in enumerate(_COLOURS):
        found[f"system-{number}"] = on_dark if dark else light
    return found


def variable_of_colour() -> dict[str, str]:
    """Return the name of the variable of each colour that a drawing has."""
    names = {drawn: name for name, (drawn, _, _) in _PAGE.items()}
    return names | {light: f"system-{number}" for number, (light, _) in enumerate(_COLOURS)}
