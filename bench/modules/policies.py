"""Ways to choose the next module, to compare `module_turns.policy.next_module` with. Pure; its arguments and result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sun_sglang.module_turns.policy import Turn, Waiting, next_module
from sun_sglang.module_turns.turns import Policy


def fifo(loaded: str, waiting: Sequence[Waiting], _now: float, _turn: Turn) -> str:
    """Return the module of the oldest request of all."""
    return min(waiting, key=lambda w: (w.since, w.module)).module if waiting else loaded


def earliest_in_time(loaded: str, waiting: Sequence[Waiting], now: float, turn: Turn) -> str:
    """Return the module with the earliest deadline that can be met; of the oldest request if none can (EDF)."""
    if not waiting:
        return loaded

    def is_late(w: Waiting) -> bool:
        change = 0.0 if w.module == loaded else turn.pace.change
        return now + change + turn.pace.work(w.tokens // w.requests) > w.since + turn.slo

    return min(waiting, key=lambda w: (is_late(w), w.since, w.module)).module


def longest_queue(loaded: str, waiting: Sequence[Waiting], _now: float, _turn: Turn) -> str:
    """Return the module with the most requests, the loaded one if it is among these."""
    return min(waiting, key=lambda w: (-w.requests, w.module != loaded, w.module)).module if waiting else loaded


def round_robin(loaded: str, waiting: Sequence[Waiting], _now: float, _turn: Turn) -> str:
    """Return the next module in order of names after each batch."""
    names = sorted(w.module for w in waiting)
    return next((name for name in names if name > loaded), names[0]) if names else loaded


def exhaustive(loaded: str, waiting: Sequence[Waiting], now: float, turn: Turn) -> str:
    """Return the loaded module while it has requests, then that of the oldest request."""
    return loaded if any(w.module == loaded for w in waiting) else fifo(loaded, waiting, now, turn)


POLICIES: Mapping[str, Policy] = {
    "turns": next_module,
    "fifo": fifo,
    "edf": earliest_in_time,
    "longest_queue": longest_queue,
    "round_robin": round_robin,
    "exhaustive": exhaustive,
}
