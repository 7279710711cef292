"""The files that a benchmark writes."""

from __future__ import annotations

import os
from pathlib import Path

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.serving.report.page.page import require_libraries


def check_writable(flag: str, file: Path | None) -> None:
    """Check before a run that its file can be written after it.

    Args:
        flag: name of the flag, for the message.
        file: the file; None: none is written.

    Raises:
        FlagError: it cannot.
    """
    if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise FlagError(flag, f"{file} cannot be written; name a file in a directory that exists")


def check_report(report: Path | None, *others: Path | None) -> None:
    """Check before a run that its page can be made and written after it.

    Args:
        report: file of the page; None: no page is made.
        others: files of the command that the page must not replace.

    Raises:
        BenchError: it cannot.
    """
    if report is None:
        return
    check_writable("report", report)
    if report.resolve() in [file.resolve() for file in others if file is not None]:
        raise FlagError("report", f"{report} is another file of this command; name a file of its own")
    require_libraries()
