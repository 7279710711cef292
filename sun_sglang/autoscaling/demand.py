"""The decode work that clients offer: cumulative totals, and their rates over a window of time. Pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# a rate over a shorter part of a window is mostly chance
_LEAST_READ = 1 / 3


class Demand(NamedTuple):
    """Decode work: of one answer, of all answers so far, or of those of a second.

    Attributes:
        answers: number of answers.
        tokens: their output tokens.
        context_tokens: the context that their steps read: for each output token, the tokens of prompt and answer before
            it. An answer of n tokens to a prompt of p reads n * p + n * n / 2.
        context_squares: the same sum over the square of the context, from which the variation of a batch's context
            follows.
    """

    answers: float = 0.0
    tokens: float = 0.0
    context_tokens: float = 0.0
    context_squares: float = 0.0

    def plus(self, other: Demand) -> Demand:
        """Return the sum."""
        return Demand(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Demand) -> Demand:
        """Return the difference."""
        return Demand(*(a - b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Demand:
        """Return each value times a factor."""
        return Demand(*(factor * value for value in self))

    @property
    def mean_context(self) -> float:
        """The mean context of an output token; 0 without tokens."""
        return self.context_tokens / self.tokens if self.tokens else 0.0


def answer_demand(prompt: float, length: float, length_squared: float | None = None) -> Demand:
    """Return the expected decode work of one answer.

    Args:
        prompt: tokens of the prompt.
        length: expected number of output tokens.
        length_squared: expected square of that number; None where the length is certain.
    """
    square = length * length if length_squared is None else length_squared
    # the third moment of the length is not known; that of a certain length with this square is less
    cube = square**1.5
    return Demand(
        answers=1.0,
        tokens=length,
        context_tokens=prompt * length + square / 2,
        context_squares=prompt * prompt * length + prompt * square + cube / 3,
    )


class DemandWindow:
    """Rates of a growing total over the last seconds.

    Args:
        span: longest window that `rate` is asked for, in seconds.
    """

    def __init__(self, span: float) -> None:
        assert span > 0
        self._span = span
        self._readings: deque[tuple[float, Demand]] = deque()

    def note(self, now: float, total: Demand) -> None:
        """Add a reading of the total. A total below the last one comes from a new counter and begins a new window."""
        if self._readings:
            last, before = self._readings[-1]
            assert now >= last, "time does not go back"
            if total.answers < before.answers:
                self._readings.clear()
        self._readings.append((now, total))
        # one reading at or before the beginning of the window stays: the rate needs it
        while len(self._readings) > 2 and self._readings[1][0] <= now - self._span:
            self._readings.popleft()

    def seconds(self) -> float:
        """Return the time between the first and the last reading that are kept."""
        return self._readings[-1][0] - self._readings[0][0] if self._readings else 0.0

    def rate(self, seconds: float) -> Demand | None:
        """Return the demand a second over the last `seconds`; None while less than a third of them was read.

        While there are fewer seconds of readings, the rate is over those that there are.
        """
        if self.seconds() < seconds * _LEAST_READ:
            return None
        end, total = self._readings[-1]
        begin, before = self._readings[0]
        for at, reading in self._readings:
            if at > end - seconds:
                break
            begin, before = at, reading
        return total.minus(before).times(1 / (end - begin)) if end > begin else None
