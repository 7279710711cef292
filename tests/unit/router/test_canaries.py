"""Canaries that hang: whom they delay."""

from __future__ import annotations

import pytest

from .conftest import PATIENCE_S, Start
from .fake_worker import Fault


async def test_canaries_that_hang_on_one_decode_worker_delay_no_other_worker(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve paths lead to the worker that hangs, and no canary ends within this test's patience."""
    monkeypatch.setattr("sun_sglang.router.register.CANARY_TIMEOUT_S", 100 * PATIENCE_S)
    tasks = {f"task-{i}": ("math", "base") for i in range(6)}
    system = await start(tasks, {"math": 2, "base": 2})
    liar, healthy, registry = system["base-0"], system["base-1"], system.router.registry
    liar.canary_fault = Fault(hang=True)
    liar.canaries = 0
    await liar.restart()
    await system.until(lambda: liar.canaries >= 8)
    await healthy.restart()
    await system.until(lambda: registry.workers["base-1"].incarnation == healthy.card["incarnation"])
    await system.until(lambda: all(len(registry.paths(task)) == 2 for task in tasks))
    assert (registry.state("base-0"), registry.state("base-1")) == ("registering", "ready")
