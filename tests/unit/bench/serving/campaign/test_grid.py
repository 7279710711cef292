from __future__ import annotations

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.campaign.grid import grid, in_turn
from tests.support.bench_campaign import settings


def test_grid_without_lists_is_one_point_with_the_settings() -> None:
    chosen = settings(concurrency=3)
    (point,) = grid(chosen)
    assert (point.number, point.values, point.settings) == (0, {}, chosen)


def test_grid_has_every_combination_with_its_settings() -> None:
    chosen = settings(concurrency=2, sweep={"zipf": (0.0, 1.5), "concurrency": (2, 8), "osl": ("8", "16")})
    points = grid(chosen)
    assert len(points) == 8
    last = points[-1].settings.workload
    assert (last.zipf, last.concurrency, last.osl) == (1.5, 8, "16")


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"zipf": (0.0, 0.0)}, "--zipf: 0.0 is named twice"),
        ({"zipf": (0.0, -1.0)}, "--zipf: .*greater than or equal to 0"),
        ({"osl": ("8", "many")}, "--osl: "),
        ({"zipf": tuple(range(40)), "concurrency": tuple(range(1, 41))}, "1600 points, more than 1000"),
    ],
)
def test_grid_that_is_wrong_is_refused_with_its_flag(sweep: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        grid(settings(concurrency=1, sweep=sweep))


def test_systems_in_turn_start_with_another_one_in_each_repetition() -> None:
    assert [in_turn("abc", repetition) for repetition in range(4)] == [
        tuple("abc"),
        tuple("bca"),
        tuple("cab"),
        tuple("abc"),
    ]
    assert in_turn("a", 5) == ("a",)
