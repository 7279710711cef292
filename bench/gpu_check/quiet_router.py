"""A quiet router: a second router over a deployment's workers that probes each worker once, and then never.

Both arms of a comparison send their requests through it. The first router probes the workers; pausing it stops the
probes.
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
    """Run a router that probes each worker once and never reads its load; yield its URL.

    Args:
        deployment: a ready deployment; the router uses its workers.
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
def paused_router(deployment: Deployment) -> Iterator[None]:
    """Stop the process of a deployment's router until the context ends; it probes no worker meanwhile."""
    pid = deployment.process("router").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
