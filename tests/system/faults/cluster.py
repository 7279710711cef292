"""Emulated workers and a router, each a process of its own, and a client that checks the answers."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.module import ModuleRef
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens
from tests.support.forked import ForkedProcess
from tests.support.ports import PORTS
from tests.system.faults.connections import kill

VOCAB = 1000
PROMPT = [5, 6, 7]
# only turns a hang into a failure
PATIENCE_S = 60.0
# Seconds of every other deadline that would end a request or detect a fault: longer than the tests wait, so that no
# result is due to it. A process may also lack the CPU for this long before it counts as dead.
NEVER_S = 600.0
EMULATION = {
    "heartbeat_interval": NEVER_S,
    "lookup_attempts": 5,
    "lookup_pause": 0.05,
    "lookup_timeout": NEVER_S,
    "vocab_size": VOCAB,
}


class Worker:
    """One emulated worker, over all of its processes."""

    def __init__(
        self,
        name: str,
        role: str,
        model: str,
        directory: Path,
        flags: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.role = role
        self.port = next(PORTS)
        self.url = f"http://127.0.0.1:{self.port}"
        self.flags = dict(flags)
        self._environment = environment
        self._model = model
        self._log = directory / f"{name}.log"
        self.process: ForkedProcess

    def start(self) -> None:
        """Start a process on the worker's port, with a bootstrap port of its own."""
        flags = {
            "model_path": self._model,
            "disaggregation_mode": self.role,
            "port": self.port,
            "disaggregation_bootstrap_port": next(PORTS),
            **{f"sim_{k}": v for k, v in EMULATION.items()},
            **self.flags,
        }
        argv = ["--disaggregation-decode-enable-radix-cache"]
        argv += [part for k, v in flags.items() for part in ("--" + k.replace("_", "-"), str(v))]
        self.process = ForkedProcess("sun_sglang.emulator.worker", argv, self._log, self._environment)

    def end(self) -> None:
        """Kill the process, and wait until it has ended."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def pause(self) -> None:
        """Stop the process, and wait until it has stopped."""
        self.process.pause(PATIENCE_S)

    def resume(self) -> None:
        """Continue a process that was stopped."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether the process runs, or is stopped."""
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """All that its processes wrote."""
        return self._log.read_text() if self._log.exists() else ""


class Cluster:
    """Everything that runs for one test."""

    def __init__(self, directory: Path, fleet: dict[str, Any], workers: dict[str, Worker]) -> None:
        self.workers = workers
        self.port = next(PORTS)
        self.url = f"http://127.0.0.1:{self.port}"
        # connections that this client keeps open would count among the router's descriptors
        self.client = aiohttp.ClientSession(
            base_url=self.url,
            timeout=aiohttp.ClientTimeout(total=2 * PATIENCE_S),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=0.5),
        )
        self.router: ForkedProcess
        self._fleet = {**fleet, "router": {**fleet["router"], "port": self.port}}
        self._file = directory / "fleet.json"
        self._log = directory / "router.log"
        self._descriptors = 0

    def __getitem__(self, name: str) -> Worker:
        return self.workers[name]

    def start_router(self, descriptors: int | None = None) -> None:
        """Start a router process on the cluster's port; `descriptors` limits its open files."""
        self._file.write_text(json.dumps(self._fleet))
        self.router = ForkedProcess("sun_sglang.router", [str(self._file)], self._log, descriptors=descriptors)

    def kill(self, name: str) -> None:
        """Kill a worker; return when the router has closed its connections to it."""
        worker = self[name]
        kill(worker.process.pid, worker.port, self.router.pid)
        worker.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        """All that the router's processes wrote."""
        return self._log.read_text() if self._log.exists() else ""

    async def close(self) -> None:
        """End every process."""
        await self.client.close()
        self.end_processes()

    def end_processes(self) -> None:
        """Kill what runs."""
        for process in [self.router, *(w.process for w in self.workers.values())]:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)

    # --- what goes on ---------------------------------------------------------------------------------------------

    async def listens(self, name: str) -> None:
        """Wait until a worker answers."""
        await wait_until(lambda: self._answers(self[name]))

    async def states(self) -> dict[str, tuple[str, str]]:
        """Return the workers' states and the reasons for them; empty while the router does not answer."""
        try:
            async with self.client.get("/tasks") as reply:
                tasks = (await reply.json())["tasks"]
        except aiohttp.ClientError:
            return {}
        pools = [task[role] for task in tasks.values() for role in ("prefill", "decode")]
        return {w["name"]: (w["state"], w["reason"]) for pool in pools for w in pool["workers"]}

    async def is_state(self, name: str, state: str) -> bool:
        """Return whether a worker is in a state."""
        return (await self.states()).get(name, ("", ""))[0] == state

    async def healthy(self) -> bool:
        """Return whether every task has a proven path."""
        try:
            async with self.client.get("/tasks") as reply:
                return bool((await reply.json())["ready"])
        except aiohttp.ClientError:
            return False

    async def ready(self) -> None:
        """Wait until every worker is ready."""

        async def all_ready() -> bool:
            states = await self.states()
            return bool(states) and all(state == "ready" for state, _ in states.values()) and await self.healthy()

        await wait_until(all_ready)
        if not self._descriptors:
            self._descriptors = psutil.Process(self.router.pid).num_fds()

    async def metrics(self) -> dict[str, float]:
        """Return the router's metrics by their full names."""
        async with self.client.get("/metrics") as reply:
            lines = (await reply.text()).splitlines()
        return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    async def load(self, name: str) -> dict[str, Any]:
        """Return a worker's `/v1/loads`, of its one rank."""
        async with aiohttp.ClientSession() as own, own.get(self[name].url + "/v1/loads") as reply:
            rank: dict[str, Any] = (await reply.json())["loads"][0]
            return rank

    async def queued(self, name: str, queue: str) -> int:
        """Return how many requests a queue of a worker holds, by its name in `/v1/loads`."""
        return int((await self.load(name))["disaggregation"][f"{queue}_queue_reqs"])

    async def running(self, name: str, count: int) -> bool:
        """Return whether a decode worker's batch has `count` requests."""
        return int((await self.load(name))["num_running_reqs"]) == count

    async def incarnation(self, name: str) -> str | None:
        """Return the incarnation of a worker at the router."""
        async with self.client.get("/tasks") as reply:
            tasks = (await reply.json())["tasks"]
        found = [w for t in tasks.values() for r in ("prefill", "decode") for w in t[r]["workers"] if w["name"] == name]
        seen: str | None = found[0]["incarnation"]
        return seen

    async def replaced(self, name: str, before: str | None) -> None:
        """Wait until the router has another incarnation of a worker than before."""

        async def is_new() -> bool:
            return await self.incarnation(name) not in (before, None)

        await wait_until(is_new)

    async def counted(self, metric: str) -> float:
        """Return the sum of a metric of the router over all its labels."""
        return sum(v for k, v in (await self.metrics()).items() if k.startswith(metric))

    async def has_work(self, name: str) -> bool:
        """Return whether the worker holds or waits for something."""
        rank = await self.load(name)
        queues = [v for k, v in rank["disaggregation"].items() if k.endswith("_queue_reqs")]
        return bool(rank["num_running_reqs"] or rank["num_waiting_reqs"] or rank["num_used_tokens"] or any(queues))

    async def at_rest(self, name: str) -> bool:
        """Return whether the worker holds and waits for nothing."""
        return not await self.has_work(name)

    async def fault(self, worker: str, kind: str, **more: Any) -> None:
        """Activate a fault; canaries are exempt by default."""
        spare = {} if kind in ("clear", "die", "refuse", "hang") else {"spare": "sun-canary"}
        async with (
            aiohttp.ClientSession() as own,
            own.post(self[worker].url + "/sun/fault", json={"kind": kind, **spare, **more}) as reply,
        ):
            assert reply.status == 200, await reply.text()

    async def settled(self) -> None:
        """Wait until nothing is in flight, waits, or is held anywhere, and the router keeps only spare descriptors."""
        alive = [n for n, w in self.workers.items() if w.alive and await self._answers(w)]
        left: list[str] = []

        async def quiet() -> bool:
            gauges = await self.metrics()
            left[:] = [k for k, v in gauges.items() if v and k.startswith(("sun_in_flight", "sun_leg_in_flight"))]
            left.extend([n for n in alive if await self.has_work(n)])
            return not left

        try:
            await wait_until(quiet)
        except TimeoutError:
            raise AssertionError(f"left over: {left}\n{self.log}") from None

        async def few_descriptors() -> bool:
            # a kept connection or two a worker, and this client's
            return psutil.Process(self.router.pid).num_fds() <= self._descriptors + 2 * len(self.workers) + 4

        await wait_until(few_descriptors)

    async def _answers(self, worker: Worker) -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S / 4)) as own,
                own.get(worker.url + "/sun/worker") as reply,
            ):
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    # --- requests ---------------------------------------------------------------------------------------------------

    def expected(self, task: str, prompt: list[int], count: int) -> list[int]:
        """Return the tokens of a task's right answer."""
        return expected_tokens(self._weights[task], prompt, count, VOCAB)

    async def read_weights(self) -> None:
        """Read the weights revisions of the prefill workers, from which answers follow."""
        self._weights: dict[str, str] = {}
        for task, pools in self._fleet["tasks"].items():
            for worker in self._fleet["workers"]:
                if worker["pool"] == pools["prefill"] and task not in self._weights:
                    async with aiohttp.ClientSession() as own, own.get(worker["url"] + "/sun/worker") as reply:
                        self._weights[task] = (await reply.json())["identity"]["weights"]

    async def add_task(self, name: str, module: ModuleRef) -> None:
        """Add a task with a module of its own, on the pools of `math`."""
        body = {"name": name, **self._fleet["tasks"]["math"], "model": module.directory}
        async with self.client.post("/tasks", json=body) as reply:
            assert reply.status == 201, await reply.text()
        self._weights[name] = module.revision

    def body(self, task: str = "math", *, tokens: int = 4, prompt: list[int] | None = None, **more: Any) -> Any:
        """Return a request's body."""
        return {
            "model": task,
            "input_ids": prompt or PROMPT,
            "sampling_params": {"max_new_tokens": tokens},
            **more,
        }

    async def post(self, body: Any, path: str = "/generate") -> tuple[int, Any, Mapping[str, str]]:
        """Send a request and return status, reply and headers."""
        async with self.client.post(path, json=body) as reply:
            raw = await reply.read()
            return reply.status, json.loads(raw) if raw else None, reply.headers

    async def events(self, body: Any, path: str = "/generate") -> list[Any]:
        """Return the data of every event of a stream; `[DONE]` as a string."""
        async with self.client.post(path, json={**body, "stream": True}) as reply:
            assert reply.status == 200, await reply.text()
            raw = (await reply.read()).decode()
        lines = [e.removeprefix("data: ") for e in raw.split("\n\n") if e]
        return [e if e == "[DONE]" else json.loads(e) for e in lines]

    async def exact(self, task: str = "math", *, stream: bool = False, tokens: int = 4, **more: Any) -> None:
        """Send a request to a task; require a full answer with its own tokens."""
        body = self.body(task, tokens=tokens, **more)
        right = self.expected(task, body["input_ids"], tokens)
        if stream:
            events = await self.events(body)
            assert events[-1] == "[DONE]", events[-1]
            assert events[-2]["output_ids"] == right
            return
        status, reply, _ = await self.post(body)
        assert status == 200, reply
        assert reply["output_ids"] == right

    async def refused(self, *statuses: int, task: str = "math", **more: Any) -> Any:
        """Send a request to a task; require a refusal with one of these codes, and return the error."""
        status, reply, _ = await self.post(self.body(task, **more))
        assert status in statuses, reply
        return reply["error"]
