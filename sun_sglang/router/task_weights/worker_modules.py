"""The modules of one worker, as far as the router knows: which is loaded, and which ones requests wait for. No I/O.

The requests that this process sent are counted at once, and so is the module of a prompt that was just computed. What
other senders wait for, and what the worker measures of its changes, is from its last report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from sun_sglang.contracts.modules_report import ModulesReport

OWN = ""
"""The key of the model with which a worker started, whose revision is known once the worker reported it."""

_NONE: Mapping[str, int] = MappingProxyType({})


class WorkerModules:
    """What a request finds on a worker that changes between modules.

    A module is known by its revision, and the worker's own model as `OWN`.

    Attributes:
        report: the last report of this start of the worker; None before the first.
    """

    __slots__ = ("_computed", "_external", "_loaded", "_reading", "_requests", "_seen", "report")

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self.report: ModulesReport | None = None
        self._loaded = OWN
        self._external = _NONE
        self._reading = False
        # the most requests by module that the report under way may count of this process
        self._seen: Counter[str] = Counter()
        self._computed = False

    # --- events -----------------------------------------------------------------------------------------------------

    def acquire(self, module: str) -> None:
        """Count one more request of this process that needs a module."""
        self._requests[module] += 1
        if self._reading:
            self._seen[module] += 1

    def release(self, module: str) -> None:
        """Count one request less of those that `acquire` counted."""
        self._requests[module] -= 1
        if not self._requests[module]:
            del self._requests[module]

    def note_computed(self, module: str) -> None:
        """Note that the worker has just computed a prompt with a module, which is then loaded."""
        self._loaded = module
        self._computed = True

    def begin_report(self) -> None:
        """Note that the worker is asked for a report: it may count the requests in flight from now on."""
        self._reading, self._computed = True, False
        self._seen = Counter(self._requests)

    def end_report(self, report: ModulesReport | None) -> None:
        """Replace what was known by a report; None if the worker sent none, and what was known stays."""
        self._reading = False
        if report is None:
            return
        self.report = report
        own = {report.own: OWN}
        if not self._computed:
            self._loaded = own.get(report.loaded, report.loaded)
        waiting = ((own.get(module, module), count) for module, count in report.queued.items())
        self._external = {module: count for module, count in waiting if count > self._seen[module]}

    def clear(self) -> None:
        """Forget what was reported: the worker has restarted. The requests of this process end by themselves."""
        self.report, self._loaded, self._external = None, OWN, _NONE
        self._reading, self._computed = False, False

    # --- questions --------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> Mapping[str, int]:
        """The requests of this process by the module that they need, until their KV was handed over."""
        return self._requests

    @property
    def loaded(self) -> str:
        """The module whose weights are loaded."""
        return self._loaded

    def is_wanted(self, module: str) -> bool:
        """Return whether requests for a module are on the worker: they wait, or are computed, or their KV is sent."""
        return module in self._requests or module in self._external

    def has(self, module: str) -> bool:
        """Return whether a request for a module adds no change: others wait for it, or it is loaded and stays so."""
        return self.is_wanted(module) or (module == self._loaded and not self.changes_ahead)

    @property
    def changes_ahead(self) -> int:
        """The changes that the worker makes for the requests that it has: one for each module that is not loaded."""
        return sum(1 for module in self._wanted() if module != self._loaded)

    @property
    def change_tokens(self) -> float:
        """The prompt tokens that the worker would compute in the time of a change; 0 before it measured both."""
        return 0.0 if self.report is None else self.report.change_seconds * self.report.tokens_per_second

    def _wanted(self) -> Iterator[str]:
        yield from self._requests
        for module in self._external:
            if module not in self._requests:
                yield module
