"""The invariants of `docs/invariants.md` in the test run: a test that is marked with one fails by the invariant's name.

    @pytest.mark.invariant("I4")

marks a test that shows invariant I4. `tests/unit/test_invariants.py` compares the marks with the page.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "invariants.md"
MARK = "invariant"
_SECTION = re.compile(r"^## (?P<number>I\d+)\. (?P<name>.+)$", re.MULTILINE)
_TEST = re.compile(r"`(test_\w+)`")


@dataclass(frozen=True)
class Invariant:
    """One section of the page.

    Attributes:
        number: such as `I4`.
        name: the section's title, such as `Rooms and request ids are used once`.
        tests: names of the test functions that the section lists.
    """

    number: str
    name: str
    tests: frozenset[str]

    def __str__(self) -> str:
        return f"{self.number}, {self.name}"


def read_page(text: str) -> dict[str, Invariant]:
    """Return the invariants of the page's text by number."""
    found: dict[str, Invariant] = {}
    sections = list(_SECTION.finditer(text))
    ends = [*(section.start() for section in sections[1:]), len(text)]
    for section, end in zip(sections, ends, strict=True):
        number = section["number"]
        assert number not in found, f"{PAGE.name} has {number} twice"
        found[number] = Invariant(number, section["name"], frozenset(_TEST.findall(text[section.end() : end])))
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", f"{MARK}(number): the test shows this invariant of docs/{PAGE.name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Begin the message of a failure with the names of the invariants that the test shows."""
    report = yield
    crash = getattr(report.longrepr, "reprcrash", None)
    if report.failed and crash is not None and (names := [str(invariant) for invariant in _marked(item)]):
        crash.message = f"invariant {'; '.join(names)}: {crash.message}"
        report.sections.append(("broken invariant", "\n".join(names)))
    return report


def _marked(item: pytest.Item) -> Iterator[Invariant]:
    marks = list(item.iter_markers(MARK))
    if marks:
        page = read_page(PAGE.read_text(encoding="utf-8"))
        for mark in marks:
            for number in mark.args:
                yield page[number]
