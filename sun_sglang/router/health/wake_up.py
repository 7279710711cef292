"""A pause of a background loop that an event ends early."""

from __future__ import annotations

import asyncio


async def wait(wake_up: asyncio.Event, seconds: float | None) -> None:
    """Return once the event is set, or after this many seconds; None for no limit."""
    try:
        async with asyncio.timeout(seconds):
            await wake_up.wait()
    except TimeoutError:
        return
