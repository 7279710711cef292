from __future__ import annotations

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.workers.rollout import Rollout
from tests.unit.router.conftest import System
from tests.unit.router.fleet_api import ASK


async def test_a_worker_that_cannot_even_be_looked_up_is_no_other_workers_problem(small: System) -> None:
    # the fleet file's check refuses such a URL; one that passes must not end the probes of all other workers
    spec = FleetWorker.model_construct(name="odd", pool="base", url="http://" + "h" * 300, draining=False)
    now = small.router.registry.fleet
    Rollout(small.router.registry).change(now.model_copy(update={"workers": (*now.workers, spec)}))
    await wait_until(lambda: "no request can be sent to" in small.router.registry.workers["odd"].reason)
    await small["base-0"].restart()
    await wait_until(lambda: small.router.registry.workers["base-0"].incarnation.endswith("-1"))
    await wait_until(lambda: small.router.registry.state("base-0") == "ready")
    assert (await small.post("/generate", ASK))[0] == 200
