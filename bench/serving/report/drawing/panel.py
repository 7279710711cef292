"""A panel -> SVG, with matplotlib. No name of a system or task is drawn: the page's legend has them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from sun_sglang.bench.serving.report.drawing.palette import INK, MUTED, RULE, look
from sun_sglang.bench.serving.report.drawing.svg import embedded
from sun_sglang.bench.serving.report.figures.figure import Panel, Series
from sun_sglang.bench.serving.report.study.quantities import Form

WIDTH, HEIGHT = 348, 232
"""Size of a panel in CSS pixels, at which its text is 12 pixels high."""

_POINTS_PER_INCH = 72
_TEXT = 12.0
_GROUP = 0.8
_LONG_TICKS = 30
_ROOM = 1.1
_STEPS = [1, 2, 2.5, 5, 10]

_STYLE = {
    # text stays text; equal panels give equal bytes
    "svg.fonttype": "none",
    "font.size": _TEXT,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    # no colour of matplotlib's own where none is given, as in the caps of an interval
    "axes.prop_cycle": f"cycler('color', ['{INK}'])",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "text.parse_math": False,
}


def draw(panel: Panel, key: str) -> str:
    """Return a panel as an `<svg>` element for a page.

    Args:
        panel: the panel.
        key: begins the ids in it; unique in the page, letters, digits and hyphens.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(WIDTH / _POINTS_PER_INCH, HEIGHT / _POINTS_PER_INCH), layout="constrained")
        axes = figure.add_subplot()
        texts = _lines(axes, panel, key) if panel.kind == "lines" else _groups(axes, panel, key)
        _vertical(axes, panel)
        _horizontal(axes, panel)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True)
    return embedded(file.getvalue(), key, _description(panel), texts)


def _lines(axes: Any, panel: Panel, key: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for series in panel.series:
        texts |= _marks(axes, series, [mark.x for mark in series.marks], key, line_width=1.6)
    return texts


def _groups(axes: Any, panel: Panel, key: str) -> dict[str, str]:
    """Draw bars, or dots with a line between groups, side by side in each group."""
    texts: dict[str, str] = {}
    width = _GROUP / len(panel.series)
    for place, series in enumerate(panel.series):
        xs = [mark.x + (place - (len(panel.series) - 1) / 2) * width for mark in series.marks]
        if panel.kind == "dots":
            texts |= _marks(axes, series, xs, key, line_width=0.8)
            continue
        heights = [mark.value for mark in series.marks]
        bars = axes.bar(xs, heights, width * 0.86, color=look(series.number).light)
        _whiskers(axes, xs, series, INK)
        texts |= _named(bars, series, key)
    return texts


def _marks(axes: Any, series: Series, xs: list[float], key: str, *, line_width: float) -> dict[str, str]:
    style = look(series.number)
    values = [mark.value for mark in series.marks]
    axes.plot(xs, values, color=style.light, linestyle=style.dash, linewidth=line_width)
    _whiskers(axes, xs, series, style.light)
    # one artist for each mark: each has a text of its own
    dots = [
        axes.plot([x], [value], color=style.light, marker=style.marker, markersize=6.5, clip_on=False)[0]
        for x, value in zip(xs, values, strict=True)
    ]
    return _named(dots, series, key)


def _named(artists: Iterable[Any], series: Series, key: str) -> dict[str, str]:
    """Give the artist of each mark an id, and return the texts of the marks by it."""
    texts = {}
    for number, (artist, mark) in enumerate(zip(artists, series.marks, strict=True)):
        artist.set_gid(f"{key}-{series.number}-{number}")
        texts[artist.get_gid()] = mark.text
    return texts


def _whiskers(axes: Any, xs: list[float], series: Series, colour: str) -> None:
    found = [(x, mark) for x, mark in zip(xs, series.marks, strict=True) if mark.high > mark.low]
    if found:
        ends = [
            [max(0.0, mark.value - mark.low) for _, mark in found],
            [max(0.0, mark.high - mark.value) for _, mark in found],
        ]
        style = {"fmt": "none", "ecolor": colour, "elinewidth": 1.2, "capsize": 3, "zorder": 3}
        axes.errorbar([x for x, _ in found], [mark.value for _, mark in found], yerr=ends, **style)


def _vertical(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, MaxNLocator, NullLocator

    axis = axes.yaxis
    marks = [mark for series in panel.series for mark in series.marks]
    if panel.is_log:
        axes.set_yscale("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(9, 9)))
    else:
        axes.set_ylim(0, _ROOM * max(mark.high for mark in marks) or 1)
        axis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    shown = (lambda value: f"{100 * value:g} %") if panel.form is Form.PERCENT else _plain
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))


def _horizontal(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    axes.set_xlabel(panel.x.label)
    if panel.x.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if not panel.x.at:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.set_xlim(0, _ROOM * max(mark.x for series in panel.series for mark in series.marks) or 1)
        return
    texts = [text for _, text in panel.x.at]
    is_long = sum(map(len, texts)) > _LONG_TICKS
    style = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks([x for x, _ in panel.x.at], texts, **style)
    if panel.kind != "lines":
        axes.set_xlim(-0.5, len(texts) - 0.5)
        axes.tick_params(axis="x", length=0)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 and value == round(value) else f"{value:g}"


def _description(panel: Panel) -> str:
    """Return all numbers of a panel, for those who do not see it."""
    return f"{panel.title}. " + "; ".join(mark.text for series in panel.series for mark in series.marks)
