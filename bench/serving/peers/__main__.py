"""Run the servers of a peer file until a signal stops them: `python -m sun_sglang.bench.serving.peers FILE RUN_DIR`.

The benchmark starts it. It writes its state where `sun launch` does, and ends with an error that has a log's end.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

from sun_sglang.bench.serving.peers.peer_file import load_peer_file, plan_peer
from sun_sglang.errors import SunError
from sun_sglang.launch.deployment import make_run_dir
from sun_sglang.launch.places.local.place import LocalPlace
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.launch.supervision.server_group import ServerGroup


async def run(file: Path, run_dir: Path) -> None:
    """Run the servers of a peer file until SIGTERM or SIGINT.

    Raises:
        SunError: the file is wrong, or a server does not start.
    """
    make_run_dir(run_dir)
    logs = run_dir / "logs"
    if logs.exists():
        logs.rename(run_dir / f"logs-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06d}")
    logs.mkdir()
    place = LocalPlace(logs)
    (machine,) = await place.machines()
    plan = plan_peer(load_peer_file(file), machine, run_dir, load_flag_schema())
    group = ServerGroup(plan.workers, file, place, run_dir, Limits(early_ends=1))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, group.stop)
    await group.run()


if __name__ == "__main__":
    try:
        asyncio.run(run(Path(sys.argv[1]).resolve(), Path(sys.argv[2])))
    except SunError as e:
        sys.exit(f"error: {e}")
