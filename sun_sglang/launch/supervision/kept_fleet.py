"""The fleet file over a change of launchers: what was changed at run time stays while the workers stay.

`planned-fleet.json` holds the fleet as an earlier launcher planned it. Where the present plan is the same, the router
goes on with its own file, which has the tasks and workers that were added and changed since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sun_sglang.contracts.fleet_file import FLEET_FILE, Fleet, FleetError, FleetWorker, load_fleet, write_fleet
from sun_sglang.files.private_file import write_private
from sun_sglang.launch.planning.plan import LaunchPlan

_PLANNED = "planned-fleet.json"


def kept_fleet(planned: Fleet, run_dir: Path) -> Fleet:
    """Return the router's present fleet where an earlier launcher had the same plan, else the plan's.

    Args:
        planned: the fleet of the present plan.
        run_dir: the deployment's run directory.
    """
    with suppress(OSError, ValueError, FleetError):
        if json.loads((run_dir / _PLANNED).read_bytes()) == _compared(planned):
            return load_fleet(run_dir / FLEET_FILE).model_copy(update={"router": planned.router})
    return planned


def write_fleets(fleet: Fleet, workers: Iterable[FleetWorker], plan: LaunchPlan) -> None:
    """Write the fleet file of the router, and the plan's fleet for the next launcher.

    Args:
        fleet: from `kept_fleet`, or the plan's.
        workers: the launcher's workers; they replace those of the same name. Other workers stay.
        plan: the present plan.

    Raises:
        OSError: a file cannot be written.
    """
    own = tuple(workers)
    may_run = {worker.name for worker in plan.workers}
    others = tuple(worker for worker in fleet.workers if worker.name not in may_run)
    write_fleet(plan.router.fleet, fleet.model_copy(update={"workers": (*own, *others)}))
    write_private(plan.run_dir / _PLANNED, json.dumps(_compared(plan.fleet)).encode())


def _compared(fleet: Fleet) -> Any:
    """Return what two plans are compared by: all but the port, which is a new one at each launch where it is 0."""
    return fleet.model_copy(update={"router": fleet.router.model_copy(update={"port": 0})}).model_dump(mode="json")
