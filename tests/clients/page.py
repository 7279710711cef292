"""Compare `docs/clients.md` with the last run of `make test-clients`, or write that run's tables into it.

python -m tests.clients.page [--write]
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "docs/clients.md"
PAGE, REPORT = ROOT / NAME, ROOT / "build/clients/report.md"
WRITE = "build/clients/venv/bin/python -m tests.clients.page --write"
# the lines around the tables
BEGIN, END = "<!-- written by tests/clients/page.py -->\n\n", "\n<!-- end -->\n"


def main(arguments: list[str]) -> str | None:
    """Return the error that the process ends with, or None."""
    page, found = PAGE.read_text(), REPORT.read_text()
    before, _, rest = page.partition(BEGIN)
    written, end, after = rest.partition(END)
    if not end:
        return f"{NAME}: the lines {BEGIN.strip()!r} and {END.strip()!r} are missing"
    if arguments == ["--write"]:
        PAGE.write_text(before + BEGIN + found + END + after)
        return None
    if written == found:
        return None
    lines = difflib.unified_diff(written.splitlines(), found.splitlines(), NAME, "this run", n=0, lineterm="")
    return "\n".join([*lines, f"{NAME} has other tables than this run: `{WRITE}` replaces them"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
