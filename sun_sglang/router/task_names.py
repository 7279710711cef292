"""The names of the tasks that a router serves, for lookups that cost the same for any number of tasks. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class TaskNames(tuple[str, ...]):
    """Names in the order of the fleet file, among which a name is found without comparing it with each."""

    def __new__(cls, names: Iterable[str] = ()) -> TaskNames:
        """Return these names."""
        made = super().__new__(cls, names)
        made._known = frozenset(made)
        return made

    _known: frozenset[str]

    def __contains__(self, name: object) -> bool:
        return name in self._known
