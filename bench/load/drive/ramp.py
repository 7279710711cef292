"""The growth of the number of requests in flight at the start of a run."""

from __future__ import annotations


def slot_time(slot: int, slots: int, ramp: float) -> float:
    """Return when a slot opens: the first at 0, the last after the ramp, the others evenly between.

    Args:
        slot: its number, from 0.
        slots: number of slots.
        ramp: seconds.
    """
    return ramp * slot / (slots - 1) if slots > 1 else 0.0
