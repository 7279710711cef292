"""Which module's requests form the next batch of a prefill worker. Pure.

A change costs time in which nothing is computed. The rules, of which the first that applies decides:

1. Deadlines: while the waiting modules can take turns in order of age and all be in time, they do, and the loaded one
   stays as long as none of the others would be late. A module that would be late is served at once if the loaded one is
   still in time after the change back.
2. Starvation: a module whose oldest request is overdue takes its turn. A request is overdue after a multiple of the SLO
   on TTFT, and at overload after the time that one turn of each module takes. The turn before it lasts so long that
   changes take at most a tenth of the time.
3. Throughput: else the module that answers most requests a second, the time of its change included. That is nearly
   always the loaded module while it has requests.

`bench/modules/turns.py` compares these rules with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sun_sglang.module_turns.pace import Pace

# a request is overdue when it has waited so many times the SLO
_OVERDUE = 4.0
# at most this share of the time goes to changes to modules with overdue requests while the loaded one has requests
_MOST_LOST = 0.1
# seconds; a rate of requests is finite where nothing was measured
_LEAST_SECONDS = 1e-9


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
    mine = next((w for w in waiting if w.module == loaded), None)
    if _all_in_time(others, now + (turn.pace.batch if mine else 0.0), turn):
        return loaded if mine else others[0].module
    if mine and _can_return_in_time(mine, others[0], now, turn):
        return others[0].module
    if now - others[0].since > max(_OVERDUE * turn.slo, _round(others, turn)):
        lasted = now - turn.since >= turn.pace.change * (1 - _MOST_LOST) / _MOST_LOST
        return others[0].module if lasted or not mine else loaded
    candidates = [*others, mine] if mine else others
    return max(candidates, key=lambda w: (_rate(w, loaded, turn), -w.since, w.module)).module


def _all_in_time(others: Sequence[Waiting], begin: float, turn: Turn) -> bool:
    """Return whether the modules that are not loaded meet their deadlines if they take turns from `begin` on."""
    end = begin
    for other in others:
        # the oldest request needs a change and its own tokens; those behind it delay the next module
        end += turn.pace.change
        if end + _oldest(other, turn) > other.since + turn.slo:
            return False
        end += turn.pace.work(other.tokens)
    return True


def _can_return_in_time(mine: Waiting, other: Waiting, now: float, turn: Turn) -> bool:
    """Return whether the other module is in time now, and the loaded one still is after a turn of the other."""
    begin = now + turn.pace.change
    if begin + _oldest(other, turn) > other.since + turn.slo:
        return False
    back = begin + turn.pace.work(other.tokens) + turn.pace.change
    return back + _oldest(mine, turn) <= mine.since + turn.slo


def _oldest(waiting: Waiting, turn: Turn) -> float:
    """Return the seconds that the oldest request of a module takes."""
    return turn.pace.work(waiting.tokens // waiting.requests)


def _round(others: Sequence[Waiting], turn: Turn) -> float:
    """Return the seconds of one turn of each of these modules, one after another.

    A turn ends with the module's requests, or once it lasted so long that its change is worth it: queues that grow
    faster than they are computed must not put off the turns of all modules behind them.
    """
    change, longest = turn.pace.change, turn.pace.change / _MOST_LOST
    return sum(min(change + turn.pace.work(other.tokens), longest) for other in others)


def _rate(waiting: Waiting, loaded: str, turn: Turn) -> float:
    """Return the requests a second if this module is next."""
    change = 0.0 if waiting.module == loaded else turn.pace.change
    return waiting.requests / max(change + turn.pace.work(waiting.tokens), _LEAST_SECONDS)
