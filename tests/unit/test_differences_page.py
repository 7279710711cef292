"""The page of differences is the table's."""

from __future__ import annotations

from pathlib import Path

from tests.engine.differences.page import page

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def test_page_of_differences_is_what_the_table_of_reasons_says() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.engine.differences.page > docs/differences.md"
