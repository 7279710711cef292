from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.report.drawing.palette import look, variables
from sun_sglang.bench.serving.report.drawing.panel import draw
from sun_sglang.bench.serving.report.figures.figure import Mark, Panel, Series, Ticks
from sun_sglang.bench.serving.report.page.page import render_page, write_page
from sun_sglang.bench.serving.report.study.load import study_of
from sun_sglang.bench.serving.report.study.study import Source, Study
from sun_sglang.bench.serving.run_report import ErrorReport
from tests.support.bench_results import metrics, result, run

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "$\\frac{1}{0}$ _hidden",
    "</style></svg>&amp;&#x3c;",
    "right\u202eleft\u0000\u0007",
    "x" * 500,
)


class Elements(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def study(*names: str, tasks: tuple[str, ...] = ("math", "code"), command: str = "sun bench") -> Study:
    content = result(names, zipf=(0.0, 1.5), request_rate=(2.0,), repetitions=2, tasks=tasks, command=command)
    return study_of([Source("file", content)])


def one_point() -> Study:
    return study_of([Source("file", result(("sun",), zipf=(0.0,), concurrency=(8,), repetitions=1))])


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(study("sun", "isolated"))


def test_page_refers_to_nothing_outside_itself(page: str) -> None:
    found = Elements(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert all(value.startswith("#") for value in found.values("href", "src", "action", "data", "poster", "srcset"))
    assert not re.findall(r"@import|url\((?!#)", page)
    assert "default-src 'none'; style-src 'unsafe-inline'" in found.values("content")[-1]
    # namespaces and document types are no links, but a reader who searches the page finds none
    assert "http" not in page.replace("http-equiv", "")


def test_page_has_unique_ids_and_each_reference_has_its_target(page: str) -> None:
    found = Elements(page)
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for value in found.values("href")] + re.findall(r"url\(#([^)]+)\)", page)
    assert set(targets) <= set(ids)
    assert set(found.values("aria-labelledby")) <= set(ids)


def test_page_has_the_answer_the_numbers_the_figures_and_the_origin(page: str) -> None:
    text = Elements(page).text
    for part in (
        "sun serves ",
        "All 8 runs are valid.",
        "Throughput and interactivity over skew",
        "Achieved by offered requests",
        "It needs two or more values of --request-rate or --concurrency.",
        "Fairness over the tasks",
        "No request failed.",
        "SHA-256 of the requests",
        "x86_64, 2 cores",
    ):
        assert part in text, part


def test_page_of_equal_results_is_equal() -> None:
    assert render_page(one_point()) == render_page(one_point())


def test_page_has_each_colour_of_a_drawing_in_both_themes(page: str) -> None:
    used = set(re.findall(r"var\(--(system-\d|ink|muted|rule)\)", page))
    assert {"system-0", "system-1", "ink", "muted", "rule"} <= used
    assert used <= set(variables(dark=False)) == set(variables(dark=True))
    style, drawings = page.split("</style>", 1)
    assert style.count("--system-0:") == 2
    assert not re.findall(r"#[0-9a-f]{6}\b", drawings)


def test_page_shows_hostile_names_as_text() -> None:
    names = HOSTILE
    content = result(names, zipf=(0.0,), request_rate=(2.0,), repetitions=1, tasks=names, command=names[0])
    errors = [ErrorReport(kind=names[1], count=1, in_window=1, tasks={}, first_message=names[0])]
    point = content.points[0].systems[names[0]]
    bad = run(metrics(1, 1, 1), 0, tasks=names, problems=[names[4]], notes=[names[2]], errors=errors)
    content.points[0].systems[names[0]] = point.model_copy(update={"runs": (*point.runs, bad)})
    page = render_page(study_of([Source(names[0], content)]))
    found = Elements(page)
    assert not {"script", "img"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    for name in names[:5]:
        assert name in found.text
    assert "right\\u202eleft\\x00\\x07" in found.text
    assert not re.search("[\u202e\x00\x07]", page)
    assert "x" * 40 + "…" in found.text
    assert found.tags.count("style") == 1


def test_page_is_written_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("earlier")
    write_page(one_point(), file)
    assert file.read_text().startswith("<!doctype html>")
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"]


def test_page_that_cannot_be_written_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--report: .*/no/page\.html cannot be written"):
        write_page(one_point(), tmp_path / "no" / "page.html")


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_page_without_a_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BenchError, match=rf"--report: {library} cannot be imported; pip install 'sun-sglang\[bench\]'"):
        write_page(one_point(), tmp_path / "page.html")


def panel(kind: str, *, is_log: bool = False, systems: int = 2) -> Panel:
    series = tuple(
        Series(f"s{i}", i, tuple(Mark(x, 10.0 ** (x + 1), 9.0, 11.0 ** (x + 1), f"s{i} <{x}>") for x in (0.0, 1.0)))
        for i in range(systems)
    )
    return Panel("tokens", kind, Ticks("load", ((0.0, "1"), (1.0, "a longer one"))), series, is_log=is_log)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["lines", "bars", "dots"])
def test_panel_has_a_text_for_each_mark(kind: str) -> None:
    svg = draw(panel(kind), "key")
    for text in ("s0 &lt;0.0&gt;", "s1 &lt;1.0&gt;"):
        assert f"<title>{text}</title>" in svg
    assert svg.count('class="mark"') == 4
    assert 'role="img"' in svg


def test_panel_has_its_axes_as_text_and_begins_at_zero() -> None:
    svg = draw(panel("bars"), "key")
    for text in ("load", "a longer one", "0"):
        assert f">{text}</text>" in svg
    assert ">0</text>" not in draw(panel("lines", is_log=True), "key")


def test_panel_of_zeros_is_drawn() -> None:
    zeros = Series("s", 0, (Mark(0.0, 0.0, 0.0, 0.0, "0 %"), Mark(0.0, 0.0, 0.0, 0.0, "0 %")))
    for kind in ("lines", "dots", "bars"):
        assert draw(Panel("hits", kind, Ticks("load"), (zeros,)), "key").count("<title>") == 2


def luminance(colour: str) -> list[float]:
    """Return the linear red, green and blue of a colour."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def lab(linear: Sequence[float]) -> list[float]:
    xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.95047, 1.0, 1.08883)
    parts = [part / w for part, w in zip(times(xyz, [min(1, max(0, x)) for x in linear]), white, strict=True)]
    x, y, z = [part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in parts]
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


# Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia; and none
SIGHTS = (
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
)


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_are_told_apart_with_every_sight(theme: str, sight: Sequence[Sequence[float]]) -> None:
    seen = [lab(times(sight, luminance(getattr(look(number), theme)))) for number in range(8)]
    assert min(math.dist(a, b) for a, b in combinations(seen, 2)) > 10


@pytest.mark.parametrize(("theme", "page"), [("light", "#ffffff"), ("dark", "#14181d")])
def test_colours_have_contrast_with_the_page(theme: str, page: str) -> None:
    weights = ((0.2126, 0.7152, 0.0722),)
    (behind,) = times(weights, luminance(page))
    for number in range(8):
        (own,) = times(weights, luminance(getattr(look(number), theme)))
        assert (max(own, behind) + 0.05) / (min(own, behind) + 0.05) >= 3.8


def test_systems_have_looks_of_their_own() -> None:
    looks = [look(number) for number in range(20)]
    assert len({(one.variable, one.marker, one.dash) for one in looks}) == 20


def test_page_of_agents_has_the_turns_of_a_session_and_of_requests_has_none() -> None:
    axes = {"zipf": (0.0,), "request_rate": (1.0, 2.0), "repetitions": 1}
    agents = study_of([Source("file", result(("prefillshare", "isolated"), workload="react", **axes))])
    page = Elements(render_page(agents))
    assert "Turns of a session" in page.text
    assert "Session latency, p95" in page.text
    assert "Turns of a session" not in Elements(render_page(study("sun"))).text
