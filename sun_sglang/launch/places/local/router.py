"""The router's processes, which run on the launcher's machine for every place of the workers."""

from __future__ import annotations

import asyncio
import sys

from sun_sglang.launch.places.local.child import Child, LocalRunning, log_size
from sun_sglang.launch.places.place import Address, Running
from sun_sglang.launch.planning.plan import RouterPlan
from sun_sglang.processes import tied_to_this_process


async def start_router(router: RouterPlan, process: int) -> Running:
    """Start one process of the router in a new process group.

    Args:
        router: what to start.
        process: its number, from 0.
    """
    path = router.log_of(process)
    log_begin = log_size(path)
    with path.open("ab") as log:
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sun_sglang.router",
            str(router.fleet),
            "--process",
            str(process),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            preexec_fn=tied_to_this_process(),
        )
    address = Address(host=router.host, port=router.port)
    return LocalRunning(address, Child(started.pid, started.wait()), path, log_begin)
