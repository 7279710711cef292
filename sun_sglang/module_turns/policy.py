"""Which module's requests form the next batch of a prefill worker. Pure.

A change costs time in which nothing is computed, so the loaded module stays while it has requests. It gives way when
the oldest request of another module would otherwise be later than the SLO on TTFT. At overload every module has late
requests, and changes by deadline would take all the time: then each turn lasts a multiple of a change. It lasts no
longer than that, so no module waits for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sun_sglang.module_turns.pace import Pace

# At most this share of the time goes to changes while the loaded module has requests: a half where a change can still
# meet a deadline, and less where every deadline is missed and only throughput is left to win.
_MOST_LOST_IN_TIME = 0.5
_MOST_LOST_LATE = 0.2


class Waiting(NamedTuple):
    """The requests of one module that wait for a batch.

    Attributes:
        module: revision of the module.
        since: clock seconds at which the oldest one arrived.
        requests: their number, at least 1.
        tokens: their uncached prompt tokens.
    """

    module: str
    since: float
    requests: int
    tokens: int


class Turn(NamedTuple):
    """The state of a worker between two batches.

    Attributes:
        since: clock seconds at which the loaded module's turn began: the end of the last change.
        slo: seconds from a request's arrival until its prompt should be computed.
        pace: what the worker measured.
    """

    since: float
    slo: float
    pace: Pace


def next_module(loaded: str, waiting: Sequence[Waiting], now: float, turn: Turn) -> str:
    """Return the module whose requests form the next batch. Never call it while a chunked prompt is under way.

    Args:
        loaded: revision of the loaded module.
        waiting: the modules with requests, each once, in any order.
        now: clock seconds.
        turn: the state of the worker.
    """
    others = sorted((w for w in waiting if w.module != loaded), key=lambda w: (w.since, w.module))
    if not others:
        return loaded
    if len(others) == len(waiting):
        return others[0].module
    if now - turn.since < _least_turn(others, now, turn) or _all_in_time(others, now, turn):
        return loaded
    return others[0].module


def _least_turn(others: Sequence[Waiting], now: float, turn: Turn) -> float:
    """Return the seconds that the loaded module keeps its turn while it has requests."""
    late = now + turn.pace.change > others[0].since + turn.slo
    share = _MOST_LOST_LATE if late else _MOST_LOST_IN_TIME
    return turn.pace.change * (1 - share) / share


def _all_in_time(others: Sequence[Waiting], now: float, turn: Turn) -> bool:
    """Return whether all others meet their deadlines if they take turns after one more batch of the loaded module."""
    end = now + turn.pace.batch
    for other in others:
        # the oldest request needs a change and its own tokens; those behind it delay the next module
        end += turn.pace.change
        if end + turn.pace.work(other.tokens // other.requests) > other.since + turn.slo:
            return False
        end += turn.pace.work(other.tokens)
    return True
