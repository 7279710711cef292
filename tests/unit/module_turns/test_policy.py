"""Which module takes its turn: all numbers are clock seconds that the tests pass in."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.module_turns.pace import Pace
from sun_sglang.module_turns.policy import Turn, Waiting, next_module

PACE = Pace(change=0.2, batch=0.1, tokens=1000.0)
LONG_AGO = -100.0


def choose(*waiting: Waiting, loaded: str = "a", now: float = 0.0, since: float = LONG_AGO, slo: float = 1.0) -> str:
    return next_module(loaded, waiting, now, Turn(since, slo, PACE))


def test_loaded_module_stays_when_nothing_waits() -> None:
    assert choose() == "a"


def test_loaded_module_stays_when_only_it_has_requests() -> None:
    assert choose(Waiting("a", LONG_AGO, 100, 10_000)) == "a"


def test_idle_loaded_module_gives_way_at_once() -> None:
    assert choose(Waiting("b", 0.0, 1, 10), since=0.0) == "b"


def test_loaded_module_with_requests_stays_while_the_others_can_wait() -> None:
    # after one more batch (0.1) a change (0.2) and 100 tokens (0.1): b is done at 0.4
    assert choose(Waiting("a", -5.0, 1, 10), Waiting("b", -0.5, 1, 100)) == "a"


def test_other_module_takes_its_turn_when_one_more_batch_would_make_it_late() -> None:
    assert choose(Waiting("a", -5.0, 1, 10), Waiting("b", -0.61, 1, 100)) == "b"


def test_others_whose_changes_add_up_to_a_missed_deadline_begin_earlier() -> None:
    others = [Waiting(name, -0.5, 1, 100) for name in "bc"]
    assert choose(Waiting("a", 0.0, 1, 10), others[0]) == "a"
    assert choose(Waiting("a", 0.0, 1, 10), *others) == "b"


def test_requests_behind_the_oldest_one_do_not_make_their_module_urgent() -> None:
    # 20 requests of 100 tokens take 2 s, more than the SLO; the oldest one is done at 0.4
    assert choose(Waiting("a", 0.0, 1, 10), Waiting("b", -0.5, 20, 2000)) == "a"


@pytest.mark.parametrize(("age", "least"), [(0.75, 0.2), (5.0, 0.8)])
def test_turn_lasts_a_multiple_of_a_change_and_longer_where_the_deadline_is_missed_anyway(
    age: float, least: float
) -> None:
    waiting = (Waiting("a", -9.0, 9, 900), Waiting("b", -age, 1, 10))
    assert choose(*waiting, since=-least + 0.01) == "a"
    assert choose(*waiting, since=-least - 0.01) == "b"


def test_worker_that_measured_nothing_goes_by_deadline_alone() -> None:
    waiting = [Waiting("a", 0.0, 1, 10), Waiting("b", -0.9, 1, 10)]
    assert next_module("a", waiting, 0.0, Turn(LONG_AGO, 1.0, Pace())) == "a"
    assert next_module("a", waiting, 0.2, Turn(LONG_AGO, 1.0, Pace())) == "b"


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.floats(-50, 0), st.integers(1, 50), st.integers(0, 10_000)),
        unique_by=lambda w: w[0],
    ),
    st.floats(-50, 0),
    st.randoms(),
)
def test_choice_has_requests_and_does_not_depend_on_the_order_of_the_modules(
    drawn: list[tuple[str, float, int, int]], since: float, order: Random
) -> None:
    waiting = [Waiting(*w) for w in drawn]
    chosen = choose(*waiting, since=since)
    assert chosen in {w.module for w in waiting} or (not waiting and chosen == "a")
    shuffled = list(waiting)
    order.shuffle(shuffled)
    assert choose(*shuffled, since=since) == chosen


@dataclass
class Flooded:
    """A worker whose six modules get requests faster than it computes them, each batch a tenth of a second.

    A batch computes half a second of one module's arrivals, so the modules need 12 batches a second.
    """

    now: float = 10.0
    loaded: str = "a"
    since: float = 0.0
    lost: float = 0.0
    oldest: dict[str, float] = field(default_factory=lambda: dict.fromkeys("abcdef", 0.0))

    def run_batch(self) -> str:
        waiting = [Waiting(name, since, 1000, 100_000) for name, since in self.oldest.items() if since < self.now]
        chosen = choose(*waiting, loaded=self.loaded, now=self.now, since=self.since)
        if chosen != self.loaded:
            self.now += PACE.change
            self.lost += PACE.change
            self.loaded, self.since = chosen, self.now
        self.now += PACE.batch
        self.oldest[chosen] += 0.5
        return chosen


def test_overload_loses_a_bounded_share_to_changes_and_starves_no_module() -> None:
    worker = Flooded()
    last = dict.fromkeys("abcdef", worker.now)
    longest = 0.0
    for _ in range(2000):
        chosen = worker.run_batch()
        longest = max(longest, worker.now - last[chosen])
        last[chosen] = worker.now
    assert worker.lost / worker.now <= 0.2 + 1e-9
    # a module waits for two turns of each other one at most: a change, four times a change, and one more batch
    assert max(longest, *(worker.now - seen for seen in last.values())) <= 2 * 5 * (5 * PACE.change + PACE.batch)
