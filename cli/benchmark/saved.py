"""Show the results of earlier runs: tables, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sun_sglang.bench.serving.report.page.page import write_page
from sun_sglang.bench.serving.report.study.load import read_study
from sun_sglang.cli.benchmark.files import check_report
from sun_sglang.cli.display.bench_comparison import render_result
from sun_sglang.cli.display.bench_study import render_study


def show_results(files: Sequence[Path], report: Path | None) -> None:
    """Print the results of some files, and write their page.

    Args:
        files: results of `sun bench --output`.
        report: file of the page; None: no page.

    Raises:
        BenchError: a file is no result, or the page cannot be made.
    """
    check_report(report, *files)
    study = read_study(files)
    (first, *others) = study.sources
    Console(highlight=False).print(render_study(study) if others else render_result(first.result))
    if report is not None:
        write_page(study, report)
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"written to {report}", markup=False)
