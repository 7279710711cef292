"""The adapters in the slots of one worker, as far as the router knows. State; no I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class ResidentAdapters:
    """The adapters that a request finds in a slot: those of the worker's last report, and those requested since.

    A report may be older than a request that was sent meanwhile, so a request counts until the report after it. Of the
    requested adapters only as many count as the worker has slots, as SGLang evicts the least recently used ones.
    """

    __slots__ = ("_before_report", "_reported", "_requested")

    def __init__(self) -> None:
        self._reported: frozenset[str] = frozenset()
        self._requested: OrderedDict[str, None] = OrderedDict()
        self._before_report: frozenset[str] = frozenset()

    def holds(self, name: str) -> bool:
        """Return whether an adapter is in a slot."""
        return name in self._requested or name in self._reported

    def note_request(self, name: str, slots: int) -> None:
        """Note that a request for an adapter was sent to the worker, which has this many slots."""
        self._requested[name] = None
        self._requested.move_to_end(name)
        if len(self._requested) > slots:
            self._requested.popitem(last=False)

    def begin_report(self) -> None:
        """Note that the worker is asked for a report: it knows the requests up to now."""
        self._before_report = frozenset(self._requested)

    def end_report(self, names: Iterable[str]) -> None:
        """Replace what earlier reports and requests said by a report."""
        self._reported = frozenset(names)
        for name in self._before_report:
            self._requested.pop(name, None)

    def clear(self) -> None:
        """Forget everything: the worker has restarted."""
        self._reported = self._before_report = frozenset()
        self._requested.clear()
