"""The fault `hold_load`: loads of adapters and modules wait for its end."""

from __future__ import annotations

import asyncio

from sun_sglang.emulator.fault_injection import FaultInjector


class HeldLoads:
    """Delays the loads of one kind.

    Args:
        faults: the faults to simulate.

    Attributes:
        is_held: whether a load waits for the end of the fault.
    """

    def __init__(self, faults: FaultInjector) -> None:
        self.is_held = False
        self._faults = faults
        self._changed = asyncio.Event()

    def notice_faults(self) -> None:
        """Check held loads again, because the active fault has changed."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait until loads are not held."""
        while self._faults.active("hold_load"):
            self.is_held = True
            self._changed.clear()
            await self._changed.wait()
        self.is_held = False
