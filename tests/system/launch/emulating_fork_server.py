"""The launcher's fork server with emulated workers: it imports no engine.

python -m tests.system.launch.emulating_fork_server FD
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Sequence

from sun_sglang.emulator.worker import main as emulate
from sun_sglang.launch.places.local import fork_server
from sun_sglang.worker import server


def serve(argv: Sequence[str]) -> None:
    # as Python does it in a process that it starts
    if path := os.environ.get("PYTHONPATH"):
        runpy.run_path(f"{path.split(os.pathsep)[0]}/sitecustomize.py")
    emulate(argv)


if __name__ == "__main__":
    server.import_engine = lambda: None
    server.serve = serve
    fork_server.main()
