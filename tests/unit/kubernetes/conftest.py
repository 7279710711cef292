"""A deployment on a fake Kubernetes: emulated workers at addresses of their own, a router, and discovery."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import Fleet, write_fleet
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.kubernetes.discovery.reconciler import Reconciler
from sun_sglang.kubernetes.discovery.watch import PodWatch, Timing
from sun_sglang.kubernetes.labels import WORKER_PORT
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.router.app import Router
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.worker import State
from tests.support.emulated_cluster import PATIENT
from tests.support.emulator import flags
from tests.support.fake_kubernetes import FakeKubernetes, fake_kubernetes, pod

ROLES = {"math": "prefill", "base": "decode"}
KEY = "worker-key-of-the-pods"
_NUMBERS = itertools.count(1)


def _address() -> str:
    """Return an address of this machine that no other pod has, of this process or of another one."""
    process, number = os.getpid() % 65536, next(_NUMBERS)
    return f"127.{process >> 8 & 127 | 64}.{process & 255}.{number}"


class Deployment:
    """A router whose workers are the pods of a fake Kubernetes.

    Attributes:
        kubernetes: the API server.
        router: the router.
        client: a client of the router.
        workers: the workers in the pods, by name.
        lines: what discovery reported.
    """

    def __init__(self, kubernetes: FakeKubernetes, router: Router, client: aiohttp.ClientSession) -> None:
        self.kubernetes = kubernetes
        self.router = router
        self.client = client
        self.workers: dict[str, EmulatedWorker] = {}
        self.lines: list[str] = []

    async def start(self, name: str, *, uid: str = "") -> None:
        """Start a pod; its pool is the second part of its name."""
        pool = name.split("-")[1]
        settings = parse_settings(flags(ROLES[pool], pool))
        address = _address()
        settings = settings.model_copy(update={"host": address, "port": WORKER_PORT, "key": KEY})
        self.workers[name] = worker = EmulatedWorker(settings)
        await worker.start()
        self.kubernetes.put(pod(name, pool, address=address, uid=uid))

    async def end(self, name: str) -> None:
        """End a pod's worker at once, and remove the pod."""
        await self.workers.pop(name).stop()
        self.kubernetes.remove(name)

    async def follows(self, *names: str) -> None:
        """Wait until the router has these workers and no others, and has proven every path of them."""
        registry = self.router.registry
        await wait_until(lambda: sorted(registry.workers), "workers", accept=lambda found: found == sorted(names))
        await wait_until(
            lambda: {name: registry.state(name) for name in names},
            "every worker is proven",
            accept=lambda states: set(states.values()) == {State.READY},
        )
        await wait_until(lambda: not registry.unproven())

    async def ask(self, prompt: list[int], length: int = 4) -> list[int]:
        """Return the tokens of an answer."""
        body = {"model": "sums", "input_ids": prompt, "sampling_params": {"max_new_tokens": length, "ignore_eos": True}}
        async with self.client.post("/generate", json=body) as reply:
            assert reply.status == 200, await reply.text()
            tokens: list[int] = (await reply.json())["output_ids"]
            return tokens


@asynccontextmanager
async def deployment(directory: Path) -> AsyncIterator[Deployment]:
    """Run a deployment without pods until the end of the block."""
    file = directory / "fleet.json"
    fleet: dict[str, Any] = {
        "tasks": {"sums": {"prefill": "math", "decode": "base"}},
        "pools": {name: {"role": role, "model": name} for name, role in ROLES.items()},
        "workers": [],
        "router": {"port": 0, "probe_interval": 0.05, "load_interval": 0},
    }
    write_fleet(file, Fleet.model_validate(fleet))
    with (directory / "router.log").open("w") as log:
        router = await Router.start(Fleet.model_validate(fleet), Log(log), file, deadlines=PATIENT)
        loop = asyncio.get_running_loop()
        try:
            async with fake_kubernetes() as kubernetes, aiohttp.ClientSession(router.url) as client:
                made = Deployment(kubernetes, router, client)
                reconciler = Reconciler(lambda: RouterClient(router.url), "sun-", KEY, made.lines.append, pause=0.02)
                watch = PodWatch(
                    kubernetes.api(),
                    "serving",
                    "app.kubernetes.io/instance=sun,app.kubernetes.io/component=worker",
                    listed=lambda pods: loop.call_soon_threadsafe(reconciler.take_list, pods),
                    changed=lambda event: loop.call_soon_threadsafe(reconciler.take_event, event),
                    failed=lambda reason: loop.call_soon_threadsafe(reconciler.note_failure, reason),
                    timing=Timing(pause_min=0.01, pause_max=0.02),
                )
                thread = threading.Thread(target=watch.run)
                thread.start()
                running = asyncio.create_task(reconciler.run())
                try:
                    yield made
                finally:
                    watch.stop()
                    kubernetes.close()
                    await asyncio.to_thread(thread.join)
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                    for worker in made.workers.values():
                        await worker.stop()
        finally:
            await router.stop(0.0)
