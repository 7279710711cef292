from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace

import pytest

from sun_sglang.contracts.fleet_file import Fleet
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import DEFAULT
from sun_sglang.router.dispatch.pair_recovery import PairRecovery
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.rollout import Rollout
from sun_sglang.topology import Policies
from tests.unit.router.registries import card, prove_all, shared_pools


@dataclass
class Request:
    """The parts of a request that selection reads."""

    task: str
    cost: Cost = field(default_factory=lambda: Cost(1, 1))
    keys: tuple[int, ...] = ()
    holder: str = ""


class Ticket:
    checked = None


@pytest.mark.invariant("I14")
async def test_request_that_waits_while_its_task_moves_to_proven_pools_gets_a_pair() -> None:
    document = shared_pools().model_dump(mode="json")
    document["workers"].append({"name": "l0", "pool": "lone", "url": "http://l0:1"})
    document["tasks"]["moving"] = {"prefill": "lone", "decode": "d"}
    registry = Registry(Fleet.model_validate(document))
    rollout = Rollout(registry)
    for name in [name for name in registry.workers if name != "l0"]:
        assert registry.admit(name, card(registry.workers[name].role)) == ""
    prove_all(registry)
    clock = Clock(asyncio.get_running_loop(), lambda _: None)
    # only a wake-up can end the wait within the test's own limit
    deadlines = replace(DEFAULT, recovery=3600.0)
    recovery = PairRecovery(registry, PairSelector(Policies(), random.Random(0)), clock, deadlines)
    waiting = asyncio.create_task(recovery.select(Request("moving"), Ticket(), set()))
    await asyncio.sleep(0)
    assert registry.usable("moving") == ()
    document["tasks"]["moving"] = {"prefill": "p", "decode": "d"}
    rollout.change(Fleet.model_validate(document))
    async with asyncio.timeout(60):
        pair = await waiting
    assert pair in registry.usable("moving")
    clock.close()
