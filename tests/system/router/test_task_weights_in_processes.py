"""Several router processes on one port: each proves adapters and modules, and all see a change of a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import router_command
from sun_sglang.contracts.module import ModuleRef, TaskWeights
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.router.task_weights.kind import kind_of
from tests.support.emulator import LORA, Start, make_adapter, start, url
from tests.support.modules import LIMITS, make_module
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

    async def proven(self, *weights: TaskWeights) -> None:
        """Wait until every process has proven weights on every prefill worker."""
        needed = {(worker, one.name) for worker in PREFILLS for one in weights}

        def done() -> bool:
            return all(needed <= set(self._proofs(log)) for log in self._logs)

        await wait_until(done)

    async def change(self, method: str, path: str, **body: Any) -> int:
        async with self.client.request(method, path, json=body or None) as reply:
            await reply.read()
            return reply.status

    def has(self, weights: TaskWeights) -> list[bool]:
        """Return whether each prefill worker has weights."""
        found = []
        for name in PREFILLS:
            adapters, modules = self.workers[name].adapters, self.workers[name].modules
            assert adapters is not None
            assert modules is not None
            is_module = isinstance(weights, ModuleRef)
            found.append(modules.has(weights.name) if is_module else weights.name in adapters.loaded)
        return found

    @staticmethod
    def _proofs(log: Path) -> Iterator[tuple[str, str]]:
        """Yield the worker and the name of the weights of each proof of a process."""
        for line in log.read_text().splitlines(keepends=True):
            kind, _, is_proven = json.loads(line)["event"].partition("_") if line.endswith("\n") else ("", "", "")
            if kind in ("adapter", "module") and is_proven == "proven":
                entry = json.loads(line)
                yield entry["worker"], entry[kind]


@asynccontextmanager
async def routers(start: Start, at: Path, refs: Mapping[str, TaskWeights]) -> AsyncIterator[Routers]:
    workers = {name: await start("prefill", "shared", *LORA, modules=LIMITS) for name in PREFILLS}
    workers |= {name: await start("decode", "base") for name in ("base-0", "base-1")}
    port = next(PORTS)
    fleet = {
        "tasks": {name: {**PAIR, kind_of(ref): ref.model_dump(mode="json")} for name, ref in refs.items()},
        "pools": {"shared": {"role": "prefill", "model": "shared"}, "base": {"role": "decode", "model": "base"}},
        "workers": [{"name": n, "pool": n.rsplit("-", 1)[0], "url": url(w)} for n, w in workers.items()],
        "router": {"port": port, "processes": PROCESSES, "probe_interval": 0.2, "load_interval": 0.1},
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
    refs: dict[str, TaskWeights] = {
        "x": make_adapter(tmp_path / "x", 0),
        "y": make_adapter(tmp_path / "y", 1),
        "u": make_module(tmp_path / "u", 2),
        "v": make_module(tmp_path / "v", 3),
    }
    adapters = [make_adapter(tmp_path / f"adapter-{i}", 9 + i) for i in range(2)]
    modules = [make_module(tmp_path / f"module-{i}", 9 + i) for i in range(2)]
    async with routers(start, tmp_path, refs) as served, traffic(served, refs) as requests:
        assert all(served.has(one) == [True, True] for one in refs.values())
        for task, field, (first, second) in (("y", "adapter", adapters), ("v", "model", modules)):
            requests.allow(task, first)
            assert await served.change("PUT", f"/tasks/{task}", **{field: first.directory}) == 200
            added = {"name": f"new-{task}", field: second.directory, **PAIR}
            assert await served.change("POST", "/tasks", **added) == 201
        await served.proven(*adapters, *modules)
        requests.begin("new-y", adapters[1])
        requests.begin("new-v", modules[1])
        await requests.more(40)
        for task in ("x", "u"):
            await requests.end(task)
            assert await served.change("DELETE", f"/tasks/{task}") == 200
