"""Random streams of one seed."""

from __future__ import annotations

from random import Random

from sun_sglang.bench.load.workload.seeds import Draws, key, random_bytes, stream


def test_stream_of_another_purpose_or_seed_differs() -> None:
    first = [stream(*purpose).random() for purpose in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", "1")]]
    assert len(set(first)) == len(first)
    assert stream(0, "a").random() == first[0]


def test_key_of_neighbouring_purposes_differs() -> None:
    assert len({key(1, 1), key(11), key(1, "1"), key(1, "a", "b"), key(1, "ab"), key(1, "a', 'b")}) == 6


def test_random_bytes_more_of_them_begin_with_the_same_ones() -> None:
    assert random_bytes(100, 7, "x").startswith(random_bytes(40, 7, "x"))


def test_draws_asked_for_in_any_order_are_the_same() -> None:
    forward, backward = (Draws(Random.random, stream(0, "x")) for _ in range(2))
    assert [forward[i] for i in range(9)] == [backward[i] for i in reversed(range(9))][::-1]
