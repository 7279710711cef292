"""The router's deadlines: one object for all of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from sun_sglang.router.deadlines import DEFAULT, Deadlines
from tests.unit.router.conftest import DEADLINES, SMALL, SUN, Start


def parts(of: object, seen: set[int]) -> Iterator[object]:
    """Yield the object, and all objects of the router's classes that its fields lead to."""
    if id(of) in seen:
        return
    seen.add(id(of))
    if isinstance(of, dict | list | tuple | set):
        for item in of.values() if isinstance(of, dict) else of:
            yield from parts(item, seen)
    elif type(of).__module__.startswith("sun_sglang.router"):
        yield of
        slots = [name for kind in type(of).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in {*getattr(of, "__dict__", {}), *slots}:
            yield from parts(getattr(of, name, None), seen)


async def test_router_started_with_deadlines_gives_them_to_every_part(start: Start) -> None:
    own = replace(DEADLINES, recovery=DEADLINES.recovery + 1)
    system = await start(SUN, SMALL, deadlines=own)
    held: dict[str, Any] = {}
    for part in parts(system.router, set()):
        for name in ("deadlines", "_deadlines"):
            if isinstance(found := getattr(part, name, None), Deadlines):
                held[type(part).__name__] = found
    assert {"WorkerClient", "RunningAttempts", "PairRecovery", "LengthChecker", "FleetStore"} < set(held)
    assert [name for name, found in held.items() if found is not own] == []


def test_deadlines_assigned_to_raise() -> None:
    with pytest.raises(FrozenInstanceError):
        DEFAULT.connect = 0.0  # type: ignore[misc]  # what the test is about
