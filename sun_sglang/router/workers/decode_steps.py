"""The decode steps that a worker has measured, accumulated over its load reports. State; no clock."""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.contracts.tasks_report import DecodeStepsReport


class DecodeTotals(NamedTuple):
    """What a worker reports of its decode steps, all of its ranks together.

    Attributes:
        steps: number of steps since it started.
        requests: the requests of their batches, in all.
        seconds: their duration, in all.
        used: tokens of KV that a rank holds now.
        kv_tokens: tokens of KV that fit.
    """

    steps: float
    requests: float
    seconds: float
    used: float
    kv_tokens: int


class DecodeSteps:
    """The steps of one start of a worker. The context of a batch is sampled at each report."""

    __slots__ = ("_context", "_last")

    def __init__(self) -> None:
        self._last: DecodeTotals | None = None
        self._context = 0.0

    def note(self, totals: DecodeTotals) -> None:
        """Add a report. Totals below the last ones come from a new start, which begins again."""
        last = self._last
        if last is None or totals.steps < last.steps:
            self._context = 0.0
            last = totals._replace(steps=0.0) if last is None else totals
        # the mean of the samples at both ends of the steps between
        self._context += (totals.steps - last.steps) * (totals.used + last.used) / 2
        self._last = totals

    def clear(self) -> None:
        """Forget the steps of an earlier start."""
        self._last, self._context = None, 0.0

    def report(self) -> DecodeStepsReport | None:
        """Return the totals so far; None before the first report."""
        if self._last is None:
            return None
        last = self._last
        return DecodeStepsReport(
            steps=last.steps,
            seconds=last.seconds,
            requests=last.requests,
            context=self._context,
            kv_tokens=last.kv_tokens,
        )
