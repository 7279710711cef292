"""Several router processes on one port: each loads and proves adapters, and all see a change of a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import router_command
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.emulator import LORA, Start, make_adapter, start, url
from tests.support.ports import PORTS
from tests.support.traffic import traffic

__all__ = ["start"]

PROCESSES = 2
PREFILLS = ("shared-0", "shared-1")
PAIR = {"prefill": "shared", "decode": "base"}


class Routers:
    """Router processes before emulated workers, which run in the test's process.

    Args:
        workers: the workers by name.
        logs: the log of each process.
        client: a client with a new connection for each request, so that any process may get it.
    """

    def __init__(self, workers: Mapping[str, EmulatedWorker], logs: list[Path], client: aiohttp.ClientSession) -> None:
        self.workers = workers
        self.client = client
        self._logs = logs

    async def proven(self, *adapters: AdapterRef) -> None:
        """Wait until every process has proven adapters on every prefill worker."""
        needed = {(worker, ref.name) for worker in PREFILLS for ref in adapters}

        def done() -> bool:
            return all(needed <= {(e["worker"], e["adapter"]) for e in self._events(log)} for log in self._logs)

        await wait_until(done)

    async def change(self, method: str, path: str, **body: Any) -> int:
        async with self.client.request(method, path, json=body or None) as reply:
            await reply.read()
            return reply.status

    def loaded(self) -> list[set[str]]:
        found = []
        for name in PREFILLS:
            adapters = self.workers[name].adapters
            assert adapters is not None
            found.append(set(adapters.loaded))
        return found

    @staticmethod
    def _events(log: Path) -> list[dict[str, Any]]:
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [entry for line in lines if (entry := json.loads(line))["event"] == "adapter_proven"]


@asynccontextmanager
async def routers(start: Start, at: Path, refs: Mapping[str, AdapterRef]) -> AsyncIterator[Routers]:
    workers = {name: await start("prefill", "shared", *LORA) for name in PREFILLS}
    workers |= {name: await start("decode", "base") for name in ("base-0", "base-1")}
    port = next(PORTS)
    fleet = {
        "tasks": {name: {**PAIR, "adapter": ref.model_dump(mode="json")} for name, ref in refs.items()},
        "pools": {"shared": {"role": "prefill", "model": "shared"}, "base": {"role": "decode", "model": "base"}},
        "workers": [{"name": n, "pool": n.rsplit("-", 1)[0], "url": url(w)} for n, w in workers.items()],
        "router": {"port": port, "processes": PROCESSES, "probe_interval": 0.2, "load_interval": 0},
    }
    file = at / "fleet.json"
    file.write_text(json.dumps(fleet))
    logs = [at / f"router-{i}.log" for i in range(PROCESSES)]
    running = []
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=120)
    try:
        for i, path in enumerate(logs):
            with path.open("wb") as log:
                command = router_command(str(file), "--process", str(i))
                running.append(await asyncio.create_subprocess_exec(*command, stderr=log))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as client:
            found = Routers(workers, logs, client)
            await found.proven(*refs.values())
            yield found
    finally:
        for process in running:
            process.terminate()
        for process in running:
            await process.wait()


async def test_change_through_one_process_is_served_by_all_without_a_lost_request(start: Start, tmp_path: Path) -> None:
    refs = {name: make_adapter(tmp_path / name, i) for i, name in enumerate(("x", "y"))}
    new = {name: make_adapter(tmp_path / f"new-{name}", 9 + i) for i, name in enumerate(("y", "z"))}
    async with routers(start, tmp_path, refs) as served, traffic(served, refs) as requests:
        assert served.loaded() == [{ref.name for ref in refs.values()}] * 2, "no process loads it again"
        requests.allow("y", new["y"])
        assert await served.change("PUT", "/tasks/y", adapter=new["y"].directory) == 200
        assert await served.change("POST", "/tasks", name="z", adapter=new["z"].directory, **PAIR) == 201
        await served.proven(new["y"], new["z"])
        requests.begin("z", new["z"])
        await requests.more(40)
        await requests.end("x")
        assert await served.change("DELETE", "/tasks/x") == 200
