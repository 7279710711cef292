"""Replace this process with a worker that has a bootstrap port of its own for each start of its container.

    python -m sun_sglang.kubernetes.in_pod.start_worker MODULE FLAGS

A container restarts at the same address. With the port of the earlier start, a decode worker could meet the new
bootstrap server while it still has the addresses of the old one (as `launch/places/place.py: Place.start`). The router
reads the port from the worker's card.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

_MODE = "--disaggregation-mode"


def command(arguments: Sequence[str], port: int) -> list[str]:
    """Return the command of a worker.

    Args:
        arguments: the Python module that runs it, then its flags.
        port: a free port, which a prefill worker gets.
    """
    argv = [sys.executable, "-m", *arguments]
    if _MODE in argv and argv[argv.index(_MODE) + 1 :][:1] == ["prefill"]:
        argv += ["--disaggregation-bootstrap-port", str(port)]
    return argv


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        port: int = s.getsockname()[1]
        return port


if __name__ == "__main__":
    os.execv(sys.executable, command(sys.argv[1:], _free_port()))
