"""The measured part of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """The measured part of a run, in seconds on its clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def holds(self, time: float | None) -> bool:
        """Return whether a time is in the window: at its start or later, and before its end."""
        return time is not None and self.start <= time < self.end
