"""Every name in SGLang that the package uses exists in the installed version and accepts the calls of this package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sun_sglang.patches import ALL
from sun_sglang.patches.engine_names import USES, faults
from sun_sglang.patches.engine_use import Use
from tests.support.sglang_questions import SGLangQuestions

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("bench", "cli", "patches", "sun_sglang")


class Held:
    """Set by a method alone."""

    declared: int

    def fill(self) -> None:
        self.filled, self.pair = 1, {"key": 2}


def two(first: Any, *, named: Any) -> None: ...


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("made_up_names")
    vars(module).update(Held=Held, two=two)
    monkeypatch.setitem(sys.modules, "made_up_names", module)
    return "made_up_names"


def test_every_name_that_is_used_is_in_the_installed_sglang(ask_sglang: SGLangQuestions) -> None:
    assert ask_sglang(faults) == []


def imported(file: Path) -> Iterator[str]:
    """Yield the dotted path of each name that a file imports from SGLang."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sglang":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_name_that_is_imported_is_in_the_list() -> None:
    listed = [use.name.replace(":", ".") for use in USES] + [patch.target for patch in ALL]
    files = [file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py")]
    names = {name: file for file in files for name in imported(file)}
    assert len(names) > 10
    # a class is used by its methods, and a module by what is in it
    unlisted = {n: f for n, f in names.items() if not any(known == n or known.startswith(f"{n}.") for known in listed)}
    assert unlisted == {}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ({"positional": 1, "keywords": ("named",)}, []),
        ({"positional": 1}, ["missing a required argument: 'named'"]),
        ({"positional": 2, "keywords": ("named",)}, ["too many positional arguments"]),
        ({"positional": 1, "keywords": ("named", "more")}, ["unexpected keyword argument 'more'"]),
    ],
)
def test_call_that_does_not_fit_is_a_fault(made_up: str, use: dict[str, Any], expected: list[str]) -> None:
    found = list(Use(f"{made_up}:two", "here.py", **use).faults())
    assert len(found) == len(expected)
    for fault, part in zip(found, expected, strict=True):
        assert fault.startswith("here.py: made_up_names:two")
        assert part in fault


def test_attribute_or_key_that_is_gone_is_a_fault(made_up: str) -> None:
    there = Use(f"{made_up}:Held", "here.py", attributes=("declared", "fill", "filled", "pair"), keys=("key",))
    assert list(there.faults()) == []
    gone = Use(f"{made_up}:Held", "here.py", attributes=("emptied",), keys=("word",))
    assert list(gone.faults()) == [
        "here.py: made_up_names:Held has no `emptied`",
        "here.py: made_up_names:Held has no `word` in its source",
    ]


def test_name_that_is_gone_is_a_fault(made_up: str) -> None:
    assert "made_up_names:Moved is gone" in next(Use(f"{made_up}:Moved", "here.py").faults())
