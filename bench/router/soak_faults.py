"""Random faults for the soak test: workers are killed, stopped for a while, or made to fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from typing import Any

import aiohttp

from sun_sglang.bench.router.soak_deployment import SoakDeployment
from sun_sglang.launch.state import ProcessState

# `kill` and `stop` are signals; the others are faults that an emulated worker injects itself
_KINDS = ("kill", "stop", "status", "abort", "die_at_token", "slow", "unresponsive")
_INJECTION_TIMEOUT = 1.0


class FaultSource:
    """Injects one fault after the other.

    Args:
        deployment: the deployment whose workers fail.
        pause: mean seconds between two faults.
        rng: source of randomness.
    """

    def __init__(self, deployment: SoakDeployment, pause: float, rng: random.Random) -> None:
        self._deployment = deployment
        self._pause = pause
        self._rng = rng
        self._stopped: set[int] = set()
        self.injected: Counter[str] = Counter()

    async def run(self, client: aiohttp.ClientSession) -> None:
        """Inject faults until cancelled."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause))
            workers = [p for p in self._deployment.state.processes if p.role != "router" and p.pid]
            if not workers:
                continue
            victim = self._rng.choice(workers)
            kind = self._rng.choice(_KINDS)
            with suppress(ProcessLookupError, aiohttp.ClientError, TimeoutError):
                await self._inject(client, kind, victim)
                self.injected[kind] += 1

    def continue_all(self) -> None:
        """Continue every worker that is stopped."""
        for pid in tuple(self._stopped):
            self._continue(pid)

    async def _inject(self, client: aiohttp.ClientSession, kind: str, victim: ProcessState) -> None:
        if kind == "kill":
            os.kill(victim.pid, signal.SIGKILL)
        elif kind == "stop":
            os.kill(victim.pid, signal.SIGSTOP)
            self._stopped.add(victim.pid)
            asyncio.get_running_loop().call_later(self._rng.uniform(0.2, 8.0), self._continue, victim.pid)
        else:
            fault: dict[str, Any] = {"kind": kind, "seconds": self._rng.uniform(0.5, 4.0)}
            fault |= {"token": self._rng.randrange(1, 9)} if kind == "die_at_token" else {}
            timeout = aiohttp.ClientTimeout(total=_INJECTION_TIMEOUT)
            async with client.post(f"{victim.url}/sun/fault", json=fault, timeout=timeout) as reply:
                reply.raise_for_status()

    def _continue(self, pid: int) -> None:
        self._stopped.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
