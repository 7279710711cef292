"""The record of a check that fails again and again, with growing pauses between its repetitions. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.health.canary import is_same_fault

MAX_FAULT = 500


class Failure(NamedTuple):
    """The last check failed.

    Attributes:
        starts: the starts of the workers that were checked.
        why: the fault.
        times: how many checks in a row failed so, of these starts.
        pause: seconds until the next one.
        next_try: loop time of the next one.
    """

    starts: tuple[str, ...]
    why: str
    times: int
    pause: float
    next_try: float


def next_failure(
    before: Failure | None, starts: tuple[str, ...], why: str, now: float, deadlines: Deadlines
) -> Failure:
    """Return the record of a check that failed.

    Args:
        before: the record of the check before it; None if that one passed.
        starts: the starts of the workers; a restart of one begins a new series.
        why: the fault.
        now: loop time.
        deadlines: the shortest and the longest pause.
    """
    if before is None or before.starts != starts:
        pause = deadlines.canary_pause_min
        return Failure(starts, why, 1, pause, now + pause)
    pause = min(before.pause * 2, deadlines.canary_pause_max)
    return Failure(starts, why, before.times + 1 if is_same_fault(before.why, why) else 1, pause, now + pause)
