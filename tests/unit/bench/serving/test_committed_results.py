"""The committed results of `sun bench`: readable, valid, and without a path of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.report import RESULTS
from sun_sglang.bench.serving.result import read_result

COMMITTED = sorted((Path(__file__).parents[4] / RESULTS / "serving").glob("*.json"))


def test_results_are_committed() -> None:
    assert COMMITTED


@pytest.mark.parametrize("file", COMMITTED, ids=[file.stem for file in COMMITTED])
def test_committed_result_is_complete_and_can_be_repeated(file: Path) -> None:
    result = read_result(file)
    assert result.revision
    assert result.command.startswith("sun bench ")
    assert not [word for word in result.command.split() if word.startswith("/")]
    for point in result.points:
        for system in result.systems:
            runs = point.systems[system.name].runs
            assert len(runs) == result.settings.num_profile_runs, f"{system.name} at {point.values}"
            assert all(run.valid and run.ending is Ending.COMPLETE for run in runs)
