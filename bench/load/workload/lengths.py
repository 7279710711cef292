"""Distributions of lengths in tokens, written `512`, `uniform:LOW:HIGH` or `lognormal:MEDIAN:SIGMA[:MAX]`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol

LONGEST = 10_000_000
"""The longest length in tokens that a setting or a trace may name; ten times the longest context of today's models."""

FORMS = "`512`, `uniform:LOW:HIGH` or `lognormal:MEDIAN:SIGMA[:MAX]`"


class Length(Protocol):
    """A distribution of lengths."""

    def sample(self, rng: Random) -> int:
        """Return a length in tokens, at least 1."""


@dataclass(frozen=True)
class Fixed:
    """One length."""

    tokens: int

    def sample(self, rng: Random) -> int:
        """Return the length."""
        return self.tokens


@dataclass(frozen=True)
class Uniform:
    """Every length from `low` to `high`, both included, with the same probability."""

    low: int
    high: int

    def sample(self, rng: Random) -> int:
        """Return a length in tokens."""
        return self.low + math.floor(rng.random() * (self.high - self.low + 1))


@dataclass(frozen=True)
class LogNormal:
    """Log-normal, rounded to whole tokens; what lies outside of 1 to `longest` becomes the nearer of the two.

    Attributes:
        median: median in tokens; the mean is `median * exp(sigma^2 / 2)`.
        sigma: standard deviation of the logarithm.
        longest: the longest length.
    """

    median: int
    sigma: float
    longest: int = LONGEST

    def sample(self, rng: Random) -> int:
        """Return a length in tokens."""
        exponent = math.log(self.median) + self.sigma * rng.normalvariate()
        return max(1, round(math.exp(min(exponent, math.log(self.longest)))))


def parse_length(text: str) -> Length:
    """Return the distribution that a text names.

    Raises:
        ValueError: the text names none; the message has the fix.
    """
    kind, *arguments = text.split(":")
    try:
        if not arguments:
            return Fixed(_tokens(kind))
        if kind == "uniform" and len(arguments) == 2:
            low, high = map(_tokens, arguments)
            if low > high:
                raise ValueError(f"the lowest length, {low}, is above the highest, {high}")
            return Uniform(low, high)
        if kind == "lognormal" and len(arguments) in (2, 3):
            median, sigma = _tokens(arguments[0]), _sigma(arguments[1])
            longest = _tokens(arguments[2]) if len(arguments) == 3 else LONGEST
            if longest < median:
                raise ValueError(f"the longest length, {longest}, is below the median, {median}")
            return LogNormal(median, sigma, longest)
    except ValueError as e:
        raise ValueError(f"`{text}` is no length: {e}; write {FORMS}") from e
    raise ValueError(f"`{text}` is no length; write {FORMS}")


def _tokens(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= LONGEST):
        raise ValueError(f"`{text}` is not a whole number from 1 to {LONGEST}")
    return int(text)


def _sigma(text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = math.nan
    if not 0 <= sigma <= 10:
        raise ValueError(f"sigma `{text}` is not a number from 0 to 10")
    return sigma
