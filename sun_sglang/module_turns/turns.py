"""The turns of one prefill worker: the loaded module, the worker's pace, and its changes so far. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from sun_sglang.contracts.modules_report import Changes
from sun_sglang.module_turns.pace import Pace
from sun_sglang.module_turns.policy import Turn, Waiting, next_module

Policy: TypeAlias = Callable[[str, Sequence[Waiting], float, Turn], str]
"""Returns the next module as `next_module` does, from the loaded one, the modules with requests, the time, the turn."""


class Turns:
    """The turns of one worker.

    Args:
        own: revision of the model with which the worker started, which is loaded first.
        slo: seconds from a request's arrival until its prompt should be computed.
        now: clock seconds of the start.
        policy: chooses the next module.

    Attributes:
        own: as given.
        loaded: revision of the loaded module.
        pace: what the worker measured.
    """

    def __init__(self, own: str, *, slo: float, now: float, policy: Policy = next_module) -> None:
        self.own = own
        self.loaded = own
        self.pace = Pace()
        self._slo = slo
        self._since = now
        self._policy = policy
        self._has_run = True
        self._changed: dict[str, Changes] = {}

    @property
    def changed(self) -> Mapping[str, Changes]:
        """The changes so far, by the module that was loaded."""
        return MappingProxyType(self._changed)

    def choose(self, waiting: Sequence[Waiting], now: float) -> str:
        """Return the module whose requests form the next batch. Never call it while a chunked prompt is under way.

        Args:
            waiting: the modules with requests, each once, in any order.
            now: clock seconds.
        """
        if not self._has_run and any(w.module == self.loaded for w in waiting):
            # each turn has a batch, even where a change takes no time
            return self.loaded
        return self._policy(self.loaded, waiting, now, Turn(self._since, self._slo, self.pace))

    def note_change(self, module: str, seconds: float, now: float) -> None:
        """Record a change.

        Args:
            module: revision of the module that is loaded now.
            seconds: the time that it took; no batch ran meanwhile.
            now: clock seconds of its end.
        """
        before = self._changed.get(module, Changes(changes=0, seconds=0.0))
        self._changed[module] = Changes(changes=before.changes + 1, seconds=before.seconds + seconds)
        self.loaded, self._since, self._has_run = module, now, False
        self.pace = self.pace.with_change(seconds)

    def note_batch(self, tokens: int, seconds: float) -> None:
        """Record a batch of the loaded module that computed `tokens` prompt tokens in `seconds`."""
        self._has_run = True
        self.pace = self.pace.with_batch(tokens, seconds)
