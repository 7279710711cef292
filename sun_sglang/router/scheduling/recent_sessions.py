"""Sessions whose last request was answered a short time ago, so that their next one goes before new sessions. Pure.

A session is a conversation that its client names. A prefill worker has its context in the cache. If requests of any
number of sessions took turns, each would find its context evicted by the others, and every request would be computed
whole: the more load, the less is served.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

REMEMBERED = 1 << 16
IDLE = 300.0
"""Seconds after which a session counts as a new one. An agent may use a tool between two requests."""


@dataclass(slots=True)
class _Session:
    """One session.

    Attributes:
        in_flight: its requests that wait or are served.
        answered: time of its last answer; None before there is one.
    """

    in_flight: int = 0
    answered: float | None = None


def session_name(owner: str, name: str | None) -> str | None:
    """Return the name of a session that no other client's has; None for none.

    Args:
        owner: name of the client's API key.
        name: the client's own name for the session; empty and None for none.
    """
    return f"{owner}\0{name}" if name else None


class RecentSessions:
    """Tells requests that continue a session from those that begin one.

    It remembers the last `remembered` sessions, each by a hash, so its memory is bounded.

    Args:
        now: returns the time in seconds.
        remembered: number of sessions.
        idle: seconds after an answer for which the session counts as recent.
    """

    def __init__(self, now: Callable[[], float], remembered: int = REMEMBERED, idle: float = IDLE) -> None:
        self._now = now
        self._remembered = remembered
        self._idle = idle
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @contextmanager
    def request(self, session: str | None) -> Iterator[bool]:
        """Enclose one request of a session; yield whether it continues the session.

        A request continues a session if an earlier one was answered recently, and no other is in flight: one name must
        not take many requests at once to the front. A request that ends with an exception was not answered.

        Args:
            session: its name, with that of its client (`session_name`); None for none.
        """
        if session is None:
            yield False
            return
        key = hashlib.blake2b(session.encode(errors="surrogatepass"), digest_size=16).digest()
        found = self._sessions.setdefault(key, _Session())
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._remembered:
            self._sessions.popitem(last=False)
        continues = not found.in_flight and found.answered is not None and self._now() - found.answered <= self._idle
        found.in_flight += 1
        try:
            yield continues
            found.answered = self._now()
        finally:
            found.in_flight -= 1
