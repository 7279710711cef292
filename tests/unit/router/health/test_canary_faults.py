"""Canaries that hang or fail."""

from __future__ import annotations

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import PATIENCE_S, Start, set_deadlines
from tests.unit.router.fake_worker import Fault


async def test_fault_05_a_canary_that_hangs_in_decode_ends(start: Start) -> None:
    system = await start({"math": ("math", "base")}, {"math": 1, "base": 1})
    system["base-0"].canary_fault = Fault(hang_after=1)
    set_deadlines(system.router.path_prover, canary=0.1)
    await system["base-0"].restart()
    await wait_until(lambda: "the decode worker did not answer" in system.log.getvalue())
    set_deadlines(system.router.path_prover, canary=PATIENCE_S)
    assert system.router.registry.state("base-0") == "registering"
    system["base-0"].canary_fault = None
    await system.ready()


async def test_a_canary_that_failed_is_tried_again_long_before_the_next_probe(start: Start) -> None:
    tasks = {"math": ("math", "base")}
    system = await start(tasks, {"math": 1, "base": 1}, router={"probe_interval": 600}, wait=False)
    system["base-0"].canary_fault = Fault(status=500, times=1)
    await system.ready()
    assert [e["event"] for e in system.events if "canary" in e["event"]] == ["canary_failed"]
