"""A second router over a deployment's workers that probes each of them once, and a pause of the first one.

Requests go through the second router in both arms of a comparison; whether the first one runs beside it decides
whether the workers are probed.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sun_sglang.bench.gpu_check.deployment import Deployment
from sun_sglang.bench.processes import running_router

_NEVER = 3600.0


@asynccontextmanager
async def quiet_router(deployment: Deployment, folder: Path) -> AsyncIterator[str]:
    """Run a router that probes each worker once and asks none for its load; yield its URL.

    Args:
        deployment: a ready deployment, whose workers it takes.
        folder: for its fleet file.

    Raises:
        RuntimeError: the router does not start.
    """
    fleet = json.loads((deployment.run_dir / "fleet.json").read_text())
    fleet["router"] |= {"port": 0, "probe_interval": _NEVER, "load_interval": 0}
    file = folder / "quiet-fleet.json"
    file.write_text(json.dumps(fleet))
    file.chmod(0o600)  # it holds the worker key
    async with running_router(file) as router:
        yield router.url


@contextmanager
def paused(deployment: Deployment) -> Iterator[None]:
    """Stop a deployment's router for a while: it probes nobody."""
    pid = deployment.process("router").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
