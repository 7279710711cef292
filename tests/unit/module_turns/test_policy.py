"""Which module takes its turn: all numbers are clock seconds that the tests pass in."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

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


def test_other_module_that_would_be_late_takes_its_turn_when_the_loaded_one_can_wait_for_its_return() -> None:
    # b must begin now; a is done at 0.2 + 0.1 + 0.2 + 0.1
    late = Waiting("b", -0.65, 1, 100)
    assert choose(Waiting("a", -0.3, 1, 100), late) == "b"
    assert choose(Waiting("a", -0.5, 1, 100), late) == "a", "b would make a late"


def test_others_whose_changes_add_up_to_a_missed_deadline_begin_earlier() -> None:
    others = [Waiting(name, -0.5, 1, 100) for name in "bc"]
    assert choose(Waiting("a", 0.0, 1, 10), others[0]) == "a"
    assert choose(Waiting("a", 0.0, 1, 10), *others) == "b"


def test_requests_behind_the_oldest_one_do_not_make_their_module_urgent() -> None:
    # 20 requests of 100 tokens take 2 s, more than the SLO; the oldest one is done at 0.4
    assert choose(Waiting("a", 0.0, 1, 10), Waiting("b", -0.5, 20, 2000)) == "a"


def test_idle_worker_goes_by_age_while_all_are_in_time_and_by_rate_afterwards() -> None:
    few, many = Waiting("b", -0.3, 1, 100), Waiting("c", -0.1, 5, 500)
    assert choose(few, many) == "b"
    assert choose(few._replace(since=-0.9), many) == "c", "b is late anyway, and c answers more requests a second"


def test_overdue_module_takes_its_turn_whatever_the_loaded_one_has() -> None:
    mine = Waiting("a", -9.0, 100, 10_000)
    assert choose(mine, Waiting("b", -3.9, 1, 10)) == "a"
    assert choose(mine, Waiting("b", -4.1, 1, 10)) == "b"


def test_overdue_begins_with_the_time_of_a_round_at_overload() -> None:
    # each of six others needs a change and a second: a round takes 7.2 s
    others = [Waiting(name, -7.0, 10, 1000) for name in "bcdefg"]
    assert choose(Waiting("a", -9.0, 100, 10_000), *others) == "a"
    assert choose(Waiting("a", -9.0, 100, 10_000), *(w._replace(since=-7.3) for w in others)) == "b"


def test_turn_lasts_nine_changes_before_an_overdue_module_ends_it() -> None:
    waiting = (Waiting("a", -9.0, 9, 900), Waiting("b", -5.0, 1, 10))
    assert choose(*waiting, since=-1.79) == "a"
    assert choose(*waiting, since=-1.81) == "b"
    assert choose(waiting[1], since=-0.1) == "b", "an idle worker loses nothing"


def test_worker_that_measured_nothing_goes_by_deadline_alone() -> None:
    waiting = [Waiting("a", 0.0, 1, 10), Waiting("b", -0.9, 1, 10)]
    assert next_module("a", waiting, 0.0, Turn(LONG_AGO, 1.0, Pace())) == "a"
    assert next_module("a", waiting, 3.2, Turn(LONG_AGO, 1.0, Pace())) == "b"


def test_queues_that_grow_without_bound_put_off_no_module() -> None:
    # 100 s of the work of others: their turns end after ten changes
    grown = Waiting("b", -50.0, 10_000, 100_000)
    assert choose(Waiting("a", -60.0, 10_000, 100_000), grown, Waiting("c", -9.0, 1, 10)) == "b"
    assert choose(grown._replace(module="a"), grown._replace(since=-4.1)) == "b"


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

    def waiting(self) -> list[Waiting]:
        """Return the queues: 20 requests and 200 tokens for each second of arrivals."""
        ages = {name: self.now - since for name, since in self.oldest.items() if since < self.now}
        return [Waiting(name, self.now - age, 1 + int(20 * age), 10 + int(200 * age)) for name, age in ages.items()]

    def run_batch(self) -> str:
        waiting = self.waiting()
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
    for _ in range(1000):
        chosen = worker.run_batch()
        longest = max(longest, worker.now - last[chosen])
        last[chosen] = worker.now
    assert worker.lost / worker.now <= 0.1 + 1e-9
    # the longest wait is that of a round, which overload makes longer, and of turns that are under way
    round_seconds = sum(PACE.change + PACE.work(w.tokens) for w in worker.waiting())
    waited = max(longest, *(worker.now - seen for seen in last.values()))
    assert waited <= round_seconds + 5 * (10 * PACE.change + PACE.batch)
    assert round_seconds < worker.now / 2
