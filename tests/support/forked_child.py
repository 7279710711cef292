"""What a process of `forked.py` runs; it receives its values as the global `GIVEN`."""

from __future__ import annotations

import atexit
import os
import resource
import signal
import sys
from collections.abc import Mapping


def run(program: str, arguments: list[str], log: str, environment: Mapping[str, str], descriptors: int | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    sys.argv = [program, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if program == "sun_sglang.router":
            from sun_sglang.router import __main__ as router

            sys.exit(router.main(arguments))
        from sun_sglang.emulator import worker

        worker.main(arguments)
    finally:
        # multiprocessing ends its processes without these, and OpenTelemetry sends its last spans there
        atexit._run_exitfuncs()


run(*globals()["GIVEN"])
