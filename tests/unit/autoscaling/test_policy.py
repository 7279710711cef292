"""The size of a decode pool, decided from demand, costs and the states of workers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.autoscaling.demand import Demand, answer_demand
from sun_sglang.autoscaling.policy import Autoscaler, Bounds, Decision, Member, MemberState
from sun_sglang.autoscaling.sizing import Target
from sun_sglang.autoscaling.step_cost import StepCost

# a worker carries 5,000 context tokens a second on average with this cost and SLO
COST = StepCost(base=0.01, per_request=0.0, per_context_token=1e-4)
BOUNDS = Bounds(least=1, most=8, target=Target(tpot=0.02, share=0.5, load=1.0), window=10.0, boot=60.0)
ONE_WORKER = Demand(10, 100, 5000)


def members(states: str, tokens: tuple[int, ...] = ()) -> list[Member]:
    """Return workers w0, w1 ... by letters: s(erving), b(ooting), d(raining), o(ff), a(way)."""
    known = {
        "s": MemberState.SERVING,
        "b": MemberState.STARTING,
        "d": MemberState.DRAINING,
        "o": MemberState.STOPPED,
        "a": MemberState.AWAY,
    }
    loads = tokens or (0,) * len(states)
    return [Member(f"w{i}", known[state], loads[i]) for i, state in enumerate(states)]


class Pool:
    """A pool under a steady demand, second by second."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.scaler = Autoscaler(bounds)
        self.now = 0.0
        self.total = Demand()
        self.scaler.note_demand(0.0, self.total)

    def run(self, seconds: int, workers: float, pool: list[Member]) -> Decision:
        """Offer the work of so many workers, and return the last decision."""
        for _ in range(seconds):
            self.now += 1
            self.total = self.total.plus(ONE_WORKER.times(workers))
            self.scaler.note_demand(self.now, self.total)
            decision = self.scaler.decide(self.now, pool, COST)
        return decision


def test_pool_grows_at_once_to_what_the_demand_needs() -> None:
    decision = Pool().run(10, 2.5, members("sooooooo"))
    assert (decision.workers, decision.start) == (3, ("w1", "w2"))
    assert "2.50 workers for 20 ms a token in 50% of the steps" in decision.reason


def test_pool_takes_draining_workers_back_before_it_starts_others_and_the_fullest_first() -> None:
    decision = Pool().run(10, 3.5, members("sddooooo", (0, 5, 9, 0, 0, 0, 0, 0)))
    assert (decision.resume, decision.start) == (("w2", "w1"), ("w3",))


def test_pool_keeps_its_size_before_demand_or_cost_is_known() -> None:
    scaler = Autoscaler(BOUNDS)
    assert not scaler.decide(0.0, members("sssooooo"), COST).changes
    for now in range(20):
        scaler.note_demand(float(now), ONE_WORKER.times(8 * now))
        assert not scaler.decide(float(now), members("sssooooo"), None).changes
    # but not below its least size
    assert scaler.decide(0.0, members("oooooooo"), None).start == ("w0",)


def test_pool_shrinks_some_boots_after_the_last_need_and_drains_the_emptiest() -> None:
    pool = Pool(BOUNDS._replace(boot=20.0))
    full = members("ssssoooo", (40, 30, 20, 10, 0, 0, 0, 0))
    assert not pool.run(20, 3.5, full).changes
    # the window of 10 s still holds some of the old demand
    assert not pool.run(60, 1.5, full).drain
    decision = pool.run(12, 1.5, full)
    assert (decision.workers, decision.drain) == (2, ("w3", "w2"))


def test_pool_stops_a_booting_worker_before_a_serving_one() -> None:
    pool = Pool(BOUNDS._replace(hold=0.0))
    assert pool.run(20, 1.5, members("sbsooooo", (0, 0, 9, 0, 0, 0, 0, 0))).drain == ("w1",)


def test_workers_that_somebody_else_took_out_count_as_missing_and_are_left_alone() -> None:
    decision = Pool().run(10, 1.5, members("saaoo"))
    assert (decision.start, decision.resume, decision.drain) == (("w3",), (), ())


def test_bounds_hold_and_the_reason_tells_what_to_expect() -> None:
    most = Pool().run(10, 20.0, members("ssssssss"))
    assert most.workers == 8
    assert not most.changes
    assert "bound by max 8: expect a growing queue" in most.reason
    least = Pool(BOUNDS._replace(least=2, hold=0.0)).run(20, 0.1, members("sssooooo"))
    assert (least.workers, least.drain) == (2, ("w2",))
    assert "bound by min 2" in least.reason


def test_boot_time_follows_the_measured_boots() -> None:
    pool = Pool()
    pool.scaler.note_boot(4.0)
    assert pool.scaler.boot == 4.0
    pool.scaler.note_boot(8.0)
    assert pool.scaler.hold == 18.0


def test_no_worker_is_started_for_a_while_after_the_place_refused_one() -> None:
    pool = Pool()
    pool.run(10, 1.5, members("sooooooo"))
    pool.scaler.note_refused_start(pool.now)
    refused = pool.run(20, 1.5, members("sooooooo"))
    assert not refused.changes
    assert "the place refused the last start" in refused.reason
    assert pool.run(11, 1.5, members("sooooooo")).start == ("w1",)


def test_kv_memory_sizes_the_pool_where_it_is_scarcer_than_time() -> None:
    scaler = Autoscaler(BOUNDS)
    scaler.note_demand(0.0, Demand())
    scaler.note_demand(10.0, ONE_WORKER.times(10))
    # 5,000 context tokens a second for 20 ms a token hold 100 tokens of KV
    decision = scaler.decide(10.0, members("sooooooo"), COST._replace(kv_tokens=30))
    assert decision.workers == 4
    assert "for KV memory" in decision.reason


def test_a_new_counter_begins_a_new_window() -> None:
    pool = Pool()
    pool.run(10, 4.0, members("ssssoooo"))
    pool.total = Demand()
    assert pool.run(1, 1.0, members("ssssoooo")).need is None


@pytest.mark.invariant("I26")
@given(st.lists(st.floats(0, 12), min_size=1, max_size=30), st.integers(1, 4), st.integers(4, 8))
def test_decisions_stay_within_bounds_and_name_workers_of_the_right_state(
    loads: list[float], least: int, most: int
) -> None:
    pool = Pool(BOUNDS._replace(least=least, most=most, hold=5.0))
    states = {f"w{i}": MemberState.SERVING if i < least else MemberState.STOPPED for i in range(most)}
    for load in loads:
        decision = pool.run(3, load, [Member(name, state) for name, state in states.items()])
        assert least <= decision.workers <= most
        for names, before, after in (
            (decision.start, MemberState.STOPPED, MemberState.SERVING),
            (decision.resume, MemberState.DRAINING, MemberState.SERVING),
            (decision.drain, MemberState.SERVING, MemberState.DRAINING),
        ):
            for name in names:
                assert states[name] is before
                states[name] = after
        assert sum(state is MemberState.SERVING for state in states.values()) == decision.workers


def test_size_never_falls_while_demand_rises() -> None:
    pool = Pool()
    sizes = [pool.run(10, load, members("s" + "o" * 7)).workers for load in (0.5, 1.5, 2.5, 5.5, 7.5)]
    assert all(a <= b for a, b in pairwise(sizes))
    assert sizes[-1] == 8


def test_demand_of_an_answer_is_what_its_steps_read() -> None:
    # a prompt of 10 and 4 tokens: each step reads the prompt and what the answer has so far, half a token more or less
    exact = sum(10 + made for made in range(4))
    assert answer_demand(10, 4).context_tokens == pytest.approx(exact + 4 / 2)
    squares = sum((10 + made) ** 2 for made in range(4))
    assert answer_demand(10, 4).context_squares == pytest.approx(squares, rel=0.1)


def test_start_that_takes_longer_than_the_expected_boot_is_not_given_up() -> None:
    pool = Pool(BOUNDS._replace(boot=5.0))
    pool.run(10, 1.5, members("sooooooo"))
    # the demand has gone long before the worker serves, which is later than the expected boot
    decision = pool.run(60, 0.5, members("sbooooooo"[:8]))
    assert not decision.changes
    assert pool.run(30, 0.5, members("ssoooooo")).drain == ("w1",)
