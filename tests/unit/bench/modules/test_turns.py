"""The order of modules against other orders, on one worker in virtual time."""

from __future__ import annotations

import pytest

from sun_sglang.bench.modules.one_worker import Waits, run
from sun_sglang.bench.modules.policies import POLICIES
from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.sim.cost_model import CostModel

# an 8B model on an A100: a prompt of 1000 tokens alone takes 0.1 s
COSTS = CostModel(prefill=0.03, prefill_per_token=7e-5, module_change=0.3)


def waits_of(policy: str, *, zipf: float, rate: float, seconds: float = 60, slo: float = 1.0) -> Waits:
    return run(PrefillLoad(20, zipf, rate, 1024, seconds), COSTS, POLICIES[policy], slo=slo, seed=0)


def test_turns_keep_more_requests_within_the_slo_than_orders_with_as_short_a_tail() -> None:
    cases = [(0.0, 2.0), (1.5, 4.0), (3.0, 7.0)]
    for zipf, rate in cases:
        turns = waits_of("turns", zipf=zipf, rate=rate).within(1.0)
        assert turns > waits_of("fifo", zipf=zipf, rate=rate).within(1.0)
        assert turns > waits_of("round_robin", zipf=zipf, rate=rate).within(1.0)
    means = {
        name: sum(waits_of(name, zipf=zipf, rate=rate, seconds=300).within(1.0) for zipf, rate in cases) / len(cases)
        for name in ("turns", "exhaustive")
    }
    assert means["turns"] > means["exhaustive"] + 0.05


@pytest.mark.parametrize("zipf", [0.0, 1.5, 3.0])
def test_turns_at_overload_have_no_longer_tail_than_any_other_order(zipf: float) -> None:
    tails = {name: waits_of(name, zipf=zipf, rate=12.0).quantile(0.99) for name in POLICIES}
    assert tails["turns"] <= 1.1 * min(tails.values()), tails


def test_turns_at_overload_end_sooner_than_changes_by_age() -> None:
    assert waits_of("turns", zipf=1.5, rate=12.0).ended < 0.95 * waits_of("fifo", zipf=1.5, rate=12.0).ended


def test_turns_at_a_low_load_are_in_time_as_deadlines_alone_are() -> None:
    turns = waits_of("turns", zipf=1.5, rate=1.0)
    assert turns.within(1.0) >= waits_of("edf", zipf=1.5, rate=1.0).within(1.0) > 0.95


def test_load_is_the_same_for_equal_seeds_and_follows_its_zipf_law() -> None:
    load = PrefillLoad(10, 1.5, 50.0, 100, 100)
    arrivals = load.arrivals(1)
    assert arrivals == load.arrivals(1) != load.arrivals(2)
    assert len(arrivals) == pytest.approx(5000, rel=0.05)
    assert sum(a.task == 0 for a in arrivals) / len(arrivals) == pytest.approx(0.5, abs=0.03)
    assert {50, 150} <= {a.prompt for a in arrivals} <= set(range(50, 151))
