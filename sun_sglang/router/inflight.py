"""The requests that clients have in flight, under the ids that they gave them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from sun_sglang.errors import RequestError
from sun_sglang.router.attempt import Ticket


class Inflight:
    """Every ticket that has no end yet, and how to find one by a client's id.

    Attributes:
        tickets: all of them.
        requests: how many of each task; one may have several tickets.
        empty: set while there are none.
    """

    def __init__(self) -> None:
        self.tickets: set[Ticket] = set()
        self.requests: Counter[str] = Counter()
        self.empty = asyncio.Event()
        self.empty.set()
        self._named: dict[str, tuple[Ticket, ...]] = {}

    def add(self, tickets: tuple[Ticket, ...], group: str | None) -> None:
        """A request came. It is in flight until it is removed.

        Args:
            tickets: one for each answer.
            group: the client's id for all of them, if it gave one.

        Raises:
            RequestError: an id is in flight already.
        """
        if names := _names(tickets, group):
            for name in names:
                if name in self._named:
                    raise RequestError(400, f"a request with rid `{name}` is in flight already", param="rid")
            self._named.update(names)
        self.requests[tickets[0].task] += 1
        self.tickets.update(tickets)
        self.empty.clear()

    def remove(self, tickets: tuple[Ticket, ...], group: str | None) -> None:
        """A request ended."""
        for name in _names(tickets, group):
            del self._named[name]
        self.requests[tickets[0].task] -= 1
        self.tickets.difference_update(tickets)
        if not self.tickets:
            self.empty.set()

    def find(self, rid: str) -> Iterable[Ticket]:
        """The tickets under exactly this id; none if it is unknown."""
        return self._named.get(rid, ())


def _names(tickets: tuple[Ticket, ...], group: str | None) -> dict[str, tuple[Ticket, ...]]:
    names: dict[str, tuple[Ticket, ...]] = {t.rid: (t,) for t in tickets if t.rid is not None}
    if group is not None:
        names[group] = tickets
    return names
