from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.invariants import PAGE, read_page

TESTS = Path(__file__).parents[1]
pytest_plugins = ("pytester",)


def marks_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield pairs of an invariant's number and the name of a test that is marked with it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.invariant":
                    for argument in decorator.args:
                        assert isinstance(argument, ast.Constant), f"{file}: {node.name}"
                        yield argument.value, node.name


def test_page_lists_exactly_the_tests_that_are_marked() -> None:
    marked: dict[str, set[str]] = defaultdict(set)
    for file in TESTS.rglob("test_*.py"):
        for number, name in marks_of(file):
            marked[number].add(name)
    page = read_page(PAGE.read_text(encoding="utf-8"))
    assert {number: set(invariant.tests) for number, invariant in page.items()} == marked


def test_page_numbers_its_invariants_without_a_gap_and_each_has_a_test() -> None:
    page = read_page(PAGE.read_text(encoding="utf-8"))
    assert list(page) == [f"I{n}" for n in range(1, len(page) + 1)]
    assert all(invariant.tests for invariant in page.values())


def test_marked_test_that_fails_names_its_invariant(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest cuts the lines of its summary to the width of the terminal
    monkeypatch.setenv("COLUMNS", "300")
    pytester.makeconftest("from tests.support.invariants import pytest_configure, pytest_runtest_makereport")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.invariant("I1")
        def test_it():
            assert 1 == 2

        @pytest.mark.invariant("I1")
        def test_other():
            pass
    """)
    result = pytester.runpytest_inprocess("--strict-markers", "-rf", "-p", "no:asyncio")
    result.assert_outcomes(passed=1, failed=1)
    name = read_page(PAGE.read_text(encoding="utf-8"))["I1"].name
    result.stdout.fnmatch_lines([f"FAILED *test_it - *invariant I1, {name}: assert 1 == 2*"])
