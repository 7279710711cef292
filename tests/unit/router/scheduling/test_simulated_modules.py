"""The selection of workers for modules against other selections, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sun_sglang.bench.modules.one_worker import Waits
from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.router.scheduling.module_affinity import prefer_module
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.sim.cost_model import CostModel
from tests.unit.router.scheduling.simulated_modules import Prefer, simulate

TASKS, WORKERS = 40, 4


def no_preference(pairs: Sequence[Pair], _cost: int) -> Sequence[Pair]:
    return pairs


def home_of_the_module(pairs: Sequence[Pair], _cost: int) -> Sequence[Pair]:
    """Return one worker for each module, whatever its load."""
    return [pairs[int(pairs[0].module, 16) % len(pairs)]]


def waits(prefer: Prefer, zipf: float, rate: float, change: float) -> Waits:
    # an 8B model on an A100: a prompt of 1000 tokens alone takes 0.1 s
    costs = CostModel(prefill=0.03, prefill_per_token=7e-5, module_change=change)
    return simulate(PrefillLoad(TASKS, zipf, rate, 1024, 30), costs, WORKERS, prefer)


@pytest.mark.parametrize(
    ("zipf", "rate", "change"), [(0.0, 12.0, 0.3), (1.5, 24.0, 0.3), (1.5, 36.0, 0.05), (3.0, 36.0, 0.3)]
)
def test_more_requests_are_in_time_than_with_the_least_loaded_worker_or_one_home_for_each_module(
    zipf: float, rate: float, change: float
) -> None:
    ours = waits(prefer_module, zipf, rate, change)
    for other in (no_preference, home_of_the_module):
        theirs = waits(other, zipf, rate, change)
        assert ours.within(1.0) >= theirs.within(1.0), other.__name__
        assert ours.quantile(0.99) <= theirs.quantile(0.99), other.__name__


def test_workers_of_few_hot_modules_change_less_than_with_the_least_loaded_worker() -> None:
    assert waits(prefer_module, 3.0, 24.0, 0.3).changes < 0.5 * waits(no_preference, 3.0, 24.0, 0.3).changes


def test_everything_is_in_time_at_a_low_load() -> None:
    assert waits(prefer_module, 1.5, 4.0, 0.3).within(1.0) == 1.0
