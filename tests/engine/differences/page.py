"""Write `docs/differences.md`: `python -m tests.engine.differences.page > docs/differences.md`."""

from __future__ import annotations

import sys

from tests.engine.differences.reasons import REASONS

_HEAD = """# Differences from one SGLang server

`tests/engine/test_differences.py` sends the same requests to the router and to one SGLang server with the same weights.
It compares the status, every field of an answer, the text that a stream adds up to and the fields of its events.
Ids, times and error messages are not compared; every error of the router is `{"error": {...}}` as in OpenAI's API.
The replies are equal, except for these rows. A row fails that test once its difference no longer occurs.
`python -m tests.engine.differences.page` writes this page.

| difference | reason |
|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(f"| {reason.what} | {reason.why} |\n" for reason in REASONS)


if __name__ == "__main__":
    sys.stdout.write(page())
