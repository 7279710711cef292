"""The tables of quantised decoders, from reports that are made up here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from sun_sglang.bench.figures.quantized_table import SMOLLM2
from sun_sglang.bench.report import Run, new_report, write_report
from sun_sglang.bench.training.quantized_cells import METHODS

UNITS = {"correct": "1", "total": "1", "low": "%", "high": "%", "tuning_s": "s"}
SETTINGS = {
    "tasks": {"math": {"examples": 640}},
    "questions": 200,
    "batch": 4,
    "threads": 1,
    "rates": {"math": {"full": 1e-3, "prefill_only": 2e-3}},
    "grids": [{"quantizer": "rtn", "bits": 4, "group": 64}],
}


def table_of(folder: Path, seeds: int, total: float | None = 90.0, left_out: Collection[str] = ()) -> str:
    """Draw the table of a report in which SUN and QSUN answer 180 questions right and every other row 20 of 200."""
    runs = [
        Run(
            case={"task": "math", "method": method, "grid": "rtn-4-64" if quantized else "none"},
            seed=seed,
            values={"correct": 180 if method in ("sun", "qsun") else 20, "total": 200, "low": 1.25, "high": 2.25},
        )
        for method, quantized in METHODS.items()
        for seed in range(seeds)
        if method not in left_out
    ]
    runs += [] if total is None else [Run(values={"tuning_s": total})]
    versions = {"torch": "2", "transformers": "5"}
    report = new_report(SMOLLM2.name, "command", runs, UNITS, settings=SETTINGS, versions=versions)
    write_report(report, folder / f"{SMOLLM2.name}.json")
    return SMOLLM2.draw(folder, folder).read_text()


def test_one_seed_shows_the_interval_of_its_questions(tmp_path: Path) -> None:
    text = table_of(tmp_path, seeds=1)
    assert "| SUN | 16/16 | 90.0 (1.2 to 2.2) | 90.0 |  |" in text
    assert "| full fine-tuning, then quantised | 4/4 | 10.0 (1.2 to 2.2) | 10.0 | -80.0 |" in text
    assert "QSUN: SUN, tuned further against the quantised decoder | 16/4 | 90.0 (1.2 to 2.2) | 90.0 | +0.0 |" in text


def test_several_seeds_show_their_deviation(tmp_path: Path) -> None:
    text = table_of(tmp_path, seeds=2)
    assert "| SUN | 16/16 | 90.0 ± 0.0 | 90.0 ± 0.0 |  |" in text
    assert "mean over 2 seeds" in text


def test_what_an_unchanged_prefill_module_loses_is_stated_by_task(tmp_path: Path) -> None:
    assert "- `rtn-4-64`: math 80.0." in table_of(tmp_path, seeds=1)


def test_a_row_that_was_not_run_says_so(tmp_path: Path) -> None:
    text = table_of(tmp_path, seeds=1, left_out=("full", "full_quantized"))
    assert "| full fine-tuning, then quantised | 4/4 | not run | | |" in text
    assert "| SUN | 16/16 | 90.0 (1.2 to 2.2) | 90.0 |  |" in text


@pytest.mark.parametrize(("total", "said"), [(90.0, "Tuning took 90.0 s in all"), (None, "Made on ")])
def test_a_report_may_have_no_sum_of_seconds(tmp_path: Path, total: float | None, said: str) -> None:
    assert said in table_of(tmp_path, seeds=1, total=total)
