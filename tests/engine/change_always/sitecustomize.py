"""Make every worker change to another module between two batches whenever requests of another module wait.

Python imports this module at its start from the first directory of `PYTHONPATH` that has one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.module_turns.policy import Waiting
from sun_sglang.module_turns.turns import Turns


def change(self: Turns, waiting: Sequence[Waiting], now: float) -> str:
    """Return the module after the loaded one, in the order of revisions, of those with requests."""
    modules = sorted(one.module for one in waiting)
    return next((module for module in modules if module > self.loaded), modules[0])


Turns.choose = change  # type: ignore[method-assign]
