"""Run the router: `python -m sun_sglang.router FLEET.json`.

Writes structured log lines to stderr and nothing else. SIGTERM and SIGINT drain. Exit code 0 after a drain, 1 if the
address cannot be bound, 2 for wrong usage or a wrong file.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import uvloop

from sun_sglang.errors import UserError
from sun_sglang.router.app import DRAIN_S, Router
from sun_sglang.router.fleet import Fleet, FleetError, load_fleet
from sun_sglang.router.log import Log, LogHandler


def main(argv: list[str]) -> int:
    """Run until a signal. Returns the exit code."""
    log = Log(sys.stderr)
    if len(argv) != 1 or argv[0].startswith("-"):
        sys.stderr.write("usage: python -m sun_sglang.router FLEET.json\n")
        return 2
    try:
        fleet = load_fleet(Path(argv[0]))
    except FleetError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler(log)])
    return uvloop.run(_serve(fleet, log, Path(argv[0])))


async def _serve(fleet: Fleet, log: Log, path: Path) -> int:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        router = await Router.start(fleet, log, path)
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    except OSError as e:
        where = f"{fleet.router.host}:{fleet.router.port}"
        log.event("failed", why=f"cannot listen on {where}: {e.strerror or e}; choose another router.port")
        return 1
    await asked.wait()
    await router.stop(DRAIN_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
