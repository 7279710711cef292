"""Run the router: `python -m sun_sglang.router FLEET.json [--process I]`.

If the fleet sets `router.processes` to N, N processes serve it on one port; I is the number of this process, from 0.

The router writes structured log lines to stderr and nothing else. A stderr that fails or blocks loses lines and stops
nothing. SIGTERM and SIGINT drain the router. The exit code is 0 after that, 1 if the address cannot be bound or a
background loop failed (the router drains first), and 2 for wrong usage or an invalid file.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import uvloop

from sun_sglang.contracts.fleet_file import Fleet, FleetError, load_fleet
from sun_sglang.errors import UserError
from sun_sglang.router.api.connections.connection_manager import raise_descriptor_limit
from sun_sglang.router.app import Router
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log, LogHandler
from sun_sglang.router.observability.log_writer import LogWriter


def main(argv: list[str]) -> int:
    """Run the router until a signal. Return the exit code."""
    file, process = _arguments(argv)
    if file is None:
        _complain("usage: python -m sun_sglang.router FLEET.json [--process I]")
        return 2
    try:
        fleet = load_fleet(file)
    except FleetError as e:
        _complain(str(e))
        return 2
    raise_descriptor_limit()
    deadlines = Deadlines()
    lost: Counter[str] = Counter()
    writer = LogWriter(sys.stderr.fileno(), lost)
    log = Log(writer, lost)
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler(log)])
    try:
        return uvloop.run(_serve(fleet, log, file, process, deadlines))
    finally:
        writer.close(deadlines.log)


def _complain(why: str) -> None:
    """Write one line to stderr. If that fails, the exit code alone reports the error."""
    with suppress(OSError):
        sys.stderr.write(f"{why}\n")
        sys.stderr.flush()


def _arguments(argv: list[str]) -> tuple[Path | None, int]:
    """Return the fleet file and the number of this process; no file for wrong usage."""
    match argv:
        case [file] if not file.startswith("-"):
            return Path(file), 0
        case [file, "--process", number] if not file.startswith("-") and number.isdecimal():
            return Path(file), int(number)
    return None, 0


async def _serve(fleet: Fleet, log: Log, path: Path, process: int, deadlines: Deadlines) -> int:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        router = await Router.start(fleet, log, path, process, deadlines)
    except UserError as e:
        _complain(str(e))
        return 2
    except OSError as e:
        where = f"{fleet.router.host}:{fleet.router.port}"
        log.event("failed", why=f"cannot listen on {where}: {e.strerror or e}; choose another router.port")
        return 1
    ends = [asyncio.create_task(event.wait()) for event in (asked, router.loops.failed)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await router.stop(fleet.router.drain_timeout)
    return 1 if router.loops.failed.is_set() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
