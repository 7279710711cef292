"""The state of one worker's turns: its pace and its changes."""

from __future__ import annotations

import pytest

from sun_sglang.module_turns.pace import Pace
from sun_sglang.module_turns.policy import Waiting
from sun_sglang.module_turns.turns import Turns


def test_pace_is_the_first_measurement_and_then_follows_the_newest_ones() -> None:
    pace = Pace().with_change(1.0).with_batch(100, 0.5)
    assert pace == Pace(change=1.0, batch=0.5, tokens=200.0)
    for _ in range(50):
        pace = pace.with_change(3.0).with_batch(100, 0.1)
    assert pace.change == pytest.approx(3.0, rel=1e-3)
    assert pace.batch == pytest.approx(0.1, rel=1e-3)
    assert pace.tokens == pytest.approx(1000.0, rel=1e-3)
    assert pace.work(500) == pytest.approx(0.5, rel=1e-3)


def test_pace_ignores_a_batch_without_tokens_or_time() -> None:
    assert Pace().with_batch(0, 0.5) == Pace().with_batch(10, 0.0) == Pace()


def test_change_is_counted_for_the_module_that_was_loaded() -> None:
    turns = Turns("own", slo=1.0, now=0.0)
    turns.note_change("b", 0.25, 1.0)
    turns.note_change("own", 0.25, 2.0)
    turns.note_change("b", 0.5, 3.0)
    assert turns.loaded == "b"
    assert {name: (c.changes, c.seconds) for name, c in turns.changed.items()} == {"b": (2, 0.75), "own": (1, 0.25)}


def test_turn_begins_at_the_end_of_the_change() -> None:
    turns = Turns("own", slo=1.0, now=0.0)
    turns.note_change("b", 0.2, 10.0)
    turns.note_batch(100, 0.05)
    waiting = [Waiting("b", 5.0, 5, 500), Waiting("own", 5.0, 1, 100)]
    assert turns.choose(waiting, 10.1) == "b"
    assert turns.choose(waiting, 11.7) == "b"
    assert turns.choose(waiting, 11.9) == "own"


def test_module_that_is_loaded_gets_a_batch_even_where_a_change_takes_no_time() -> None:
    turns = Turns("own", slo=1.0, now=0.0)
    turns.note_change("b", 0.0, 10.0)
    waiting = [Waiting("b", 5.0, 1, 100), Waiting("own", 1.0, 1, 100)]
    assert turns.choose(waiting, 10.0) == "b"
    assert turns.choose(waiting[1:], 10.0) == "own", "its requests may be gone"
    turns.note_batch(100, 0.1)
    assert turns.choose(waiting, 10.1) == "own"
