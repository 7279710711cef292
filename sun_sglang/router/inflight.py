"""The requests that clients have in flight, under the ids that they gave them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sun_sglang.errors import RequestError
from sun_sglang.router.attempt import Ticket


class Inflight:
    """Every ticket that has no end yet, and how to find one by a client's id.

    Attributes:
        tickets: all of them.
        empty: set while there are none.
    """

    def __init__(self) -> None:
        self.tickets: set[Ticket] = set()
        self.empty = asyncio.Event()
        self.empty.set()
        self._named: dict[str, tuple[Ticket, ...]] = {}

    @contextmanager
    def track(self, tickets: tuple[Ticket, ...], group: str | None) -> Iterator[None]:
        """Keep a request's tickets while it is in flight.

        Args:
            tickets: one for each answer.
            group: the client's id for all of them, if it gave one.

        Raises:
            RequestError: an id is in flight already.
        """
        names: dict[str, tuple[Ticket, ...]] = {t.rid: (t,) for t in tickets if t.rid is not None}
        if group is not None:
            names[group] = tickets
        for name in names:
            if name in self._named:
                raise RequestError(400, f"a request with rid `{name}` is in flight already", param="rid")
        self._named.update(names)
        self.tickets.update(tickets)
        self.empty.clear()
        try:
            yield
        finally:
            self.tickets.difference_update(tickets)
            if not self.tickets:
                self.empty.set()
            for name in names:
                del self._named[name]

    def find(self, rid: str) -> Iterable[Ticket]:
        """The tickets under exactly this id; none if it is unknown."""
        return self._named.get(rid, ())
