"""What a display shows of a benchmark while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from sun_sglang.bench.serving.run import Moment
from sun_sglang.bench.serving.settings import BenchSettings


class CampaignView(Protocol):
    """Shows a benchmark."""

    def starting(self, system: str) -> AbstractContextManager[None]:
        """Show that a system is being started, until the context ends."""
        ...

    def run(self, title: str, settings: BenchSettings) -> AbstractContextManager[Callable[[Moment], None]]:
        """Show a run until the context ends; returns what is called with its state.

        Args:
            title: the system, and which of the runs it is.
            settings: the settings of the run.
        """
        ...
