"""The page of request fields."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.router.protocol.fields.page import page

PAGE = Path(__file__).parents[5] / "docs" / "fields.md"


def test_field_page_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run: python -m sun_sglang.router.protocol.fields.page > docs/fields.md"
    )
