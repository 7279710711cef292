"""Distributions of lengths: their texts and their draws."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.workload.lengths import LONGEST, Fixed, LogNormal, Uniform, parse_length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("512", Fixed(512)),
        ("uniform:64:256", Uniform(64, 256)),
        ("uniform:7:7", Uniform(7, 7)),
        ("lognormal:256:0.5", LogNormal(256, 0.5)),
        ("lognormal:256:0:4096", LogNormal(256, 0, 4096)),
    ],
)
def test_parse_length_of_each_form_returns_the_distribution(text: str, length: object) -> None:
    assert parse_length(text) == length


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "`` is not a whole number"),
        ("0", "`0` is not a whole number"),
        ("-5", "`-5`"),
        ("1.5", "`1.5`"),
        ("1e3", "`1e3`"),
        ("²", "`²`"),
        ("9" * 5000, "is not a whole number"),
        ("uniform:64", "write `512`"),
        ("uniform:9:8", "the lowest length, 9, is above the highest, 8"),
        ("uniform:1:2:3", "write `512`"),
        ("normal:5:1", "write `512`"),
        ("lognormal:64", "write `512`"),
        ("lognormal:64:x", "sigma `x`"),
        ("lognormal:64:nan", "sigma `nan`"),
        ("lognormal:64:-1", "sigma `-1`"),
        ("lognormal:64:1:32", "the longest length, 32, is below the median, 64"),
    ],
)
def test_parse_length_of_a_wrong_text_names_it_and_the_forms(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="is no length") as error:
        parse_length(text)
    assert reason in str(error.value)
    assert "`uniform:LOW:HIGH`" in str(error.value)


@given(st.text(max_size=20) | st.from_regex(r"(uniform|lognormal):[0-9.e:-]*", fullmatch=True))
def test_parse_length_of_any_text_returns_or_raises_value_error(text: str) -> None:
    try:
        length = parse_length(text)
    except ValueError:
        return
    assert 1 <= length.sample(Random(1)) <= LONGEST


def test_uniform_draws_every_length_alike() -> None:
    rng = Random(1)
    counts = Counter(Uniform(3, 7).sample(rng) for _ in range(10_000))
    assert set(counts) == {3, 4, 5, 6, 7}
    # five standard deviations of a binomial with mean 2,000
    assert all(abs(count - 2000) < 200 for count in counts.values())


def test_lognormal_draws_have_median_and_mean() -> None:
    rng = Random(1)
    drawn = [LogNormal(300, 0.5).sample(rng) for _ in range(20_000)]
    assert median(drawn) == pytest.approx(300, rel=0.03)
    assert fmean(drawn) == pytest.approx(300 * math.exp(0.125), rel=0.03)


@given(st.integers(1, 1000), st.floats(0, 10), st.integers(0, 1000), st.integers())
def test_lognormal_draw_lies_within_its_bounds(median: int, sigma: float, more: int, seed: int) -> None:
    assert 1 <= LogNormal(median, sigma, median + more).sample(Random(seed)) <= median + more
