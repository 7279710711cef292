"""Requests in flight, by their clients' ids. An id is visible only to the API key that sent it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sun_sglang.errors import RequestError
from sun_sglang.router.dispatch.attempt import Ticket


class InFlight:
    """All tickets that have not ended.

    Attributes:
        tickets: all of them.
        requests: number of requests of each task; a request may have several tickets.
    """

    def __init__(self) -> None:
        self.tickets: set[Ticket] = set()
        self.requests: Counter[str] = Counter()
        self._named: dict[str, dict[str, tuple[Ticket, ...]]] = {}

    def add(self, tickets: tuple[Ticket, ...], group: str | None) -> None:
        """Add a request, which is in flight until it is removed.

        Args:
            tickets: one for each answer.
            group: the client's id for all of them, if it gave one.

        Raises:
            RequestError: one of its ids is in flight already.
        """
        if names := _names(tickets, group):
            mine = self._named.setdefault(tickets[0].owner, {})
            for name in names:
                if name in mine:
                    raise RequestError(400, f"a request with rid `{name}` is in flight already", param="rid")
            mine.update(names)
        self.requests[tickets[0].task] += 1
        self.tickets.update(tickets)

    def remove(self, tickets: tuple[Ticket, ...], group: str | None) -> None:
        """Remove a request that ended. The arguments equal those of `add`."""
        if names := _names(tickets, group):
            mine = self._named[tickets[0].owner]
            for name in names:
                del mine[name]
            if not mine:
                del self._named[tickets[0].owner]
        self.requests[tickets[0].task] -= 1
        self.tickets.difference_update(tickets)

    def has(self, task: str) -> bool:
        """Return whether a task has requests that have not ended."""
        return self.requests[task] > 0

    def find(self, rid: str, owner: str | None) -> Iterable[Ticket]:
        """Return the tickets with exactly this id; none if it is unknown.

        Args:
            rid: the client's id.
            owner: the name of their API key; None for all keys.
        """
        owners = self._named.values() if owner is None else [self._named.get(owner, {})]
        return [ticket for names in owners for ticket in names.get(rid, ())]


def _names(tickets: tuple[Ticket, ...], group: str | None) -> dict[str, tuple[Ticket, ...]]:
    names: dict[str, tuple[Ticket, ...]] = {t.rid: (t,) for t in tickets if t.rid is not None}
    if group is not None:
        names[group] = tickets
    return names
