"""A soak: mixed traffic for minutes over emulated workers that are killed, stopped, and told to fail at random.

    python -m sun_sglang.bench.router.soak --minutes 20

Runs `sun launch` over emulated workers and checks that every request has exactly one outcome, that the router counted
the same (but for clients that left before it had their request), that every answer that came is the right one, that
nothing is left in flight, and that the router's memory is flat. Prints what happened; exits 1 if any of it is not so.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import psutil
import typer
import yaml
from rich.console import Console

from sun_sglang.bench.processes import run_sun
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState, ProcessState, read_state

VOCAB = 1000
TASKS = ("math", "tool")
TOPOLOGY: dict[str, Any] = {
    "pools": {
        "base": {"role": "decode", "model": "none/base", "replicas": 2},
        **{task: {"role": "prefill", "model": f"none/{task}", "replicas": 2} for task in TASKS},
    },
    "tasks": {task: {"prefill": task, "decode": "base"} for task in TASKS},
    "backend": "emulated",
    "emulated": {"costs": "costs.yaml", "vocab_size": VOCAB, "heartbeat_interval": 0.5, "lookup_attempts": 5},
    "router": {"port": 0, "probe_interval": 0.5, "first_token_timeout": 5, "idle_timeout": 3},
}
COSTS = {"decode_step": 0.004, "prefill": 0.004, "transfer": 0.002, "kv_tokens": 20_000}
# of a request: the router's own deadlines end it long before
PATIENCE_S = 60.0
# what the process may grow by between the second quarter and the last: pools of memory that fill, not a leak
GROWTH_MIB = 8.0
# no judgement over less: what a process takes for its first requests is no leak
JUDGED_FROM_S = 300.0


@dataclass
class Tally:
    """What happened.

    Attributes:
        outcomes: of requests, as the client saw them.
        trouble: what was done to workers, by kind.
        wrong: what must never be, in words.
        memory: MiB of the router, sampled.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    trouble: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def main(
    minutes: Annotated[float, typer.Option(min=0.01)] = 20.0,
    clients: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    pause: Annotated[float, typer.Option(min=0.05, help="Mean seconds between two troubles.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the traffic and the trouble.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
) -> None:
    """Run, print, and judge."""
    report = run(minutes * 60, clients, pause, seed)
    Console().print(report)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report["wrong"]:
        raise typer.Exit(1)


def run(seconds: float, clients: int, pause: float, seed: int) -> dict[str, Any]:
    """One soak. Returns what happened; `wrong` is empty if all was well."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "costs.yaml").write_text(yaml.safe_dump(COSTS))
        (home / "soak.yaml").write_text(yaml.safe_dump(TOPOLOGY))
        _run_sun("launch", str(home / "soak.yaml"), "--detach", "--run-dir", str(home / "run"))
        try:
            tally, counted = asyncio.run(Soak(home / "run", clients, pause, random.Random(seed)).run(seconds))
        finally:
            _run_sun("stop", "--run-dir", str(home / "run"), "--now")
    return {
        "command": f"python -m sun_sglang.bench.router.soak --minutes {seconds / 60:g} --clients {clients} "
        f"--seed {seed}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "requests": sum(tally.outcomes.values()),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "router_counted": counted,
        "left_before_the_router_read": sum(tally.outcomes.values()) - sum(counted.values()),
        "trouble": dict(sorted(tally.trouble.items())),
        "router_mib": _quarters(tally.memory),
        "wrong": tally.wrong + judge(tally, counted, seconds),
    }


def judge(tally: Tally, counted: dict[str, int], seconds: float) -> list[str]:
    """What is not as it has to be, in words."""
    wrong = []
    asked, seen = sum(tally.outcomes.values()), sum(counted.values())
    # a client that leaves at once may be gone before the router has read its request, or even before it was sent
    if not 0 <= asked - seen <= tally.outcomes["left"]:
        wrong.append(f"{asked} requests were sent and the router counted {seen}")
    if (ok := tally.outcomes["ok"]) > counted.get("ok", 0):
        wrong.append(f"{ok} answers came and the router counted {counted.get('ok', 0)}")
    if not ok:
        wrong.append("not one request was answered")
    quarters = _quarters(tally.memory)
    if seconds >= JUDGED_FROM_S and quarters and quarters[-1] - quarters[1] > GROWTH_MIB:
        wrong.append(f"the router grew from {quarters[1]:.1f} to {quarters[-1]:.1f} MiB")
    return wrong


class Soak:
    """Traffic and trouble over one deployment."""

    def __init__(self, run_dir: Path, clients: int, pause: float, rng: random.Random) -> None:
        self._run_dir = run_dir
        self._clients = clients
        self._pause = pause
        self._rng = rng
        self._tally = Tally()
        self._stopped: set[int] = set()
        self._ending = False
        self._weights: dict[str, str] = {}

    async def run(self, seconds: float) -> tuple[Tally, dict[str, int]]:
        """Run, wait until all has settled, and read what the router counted."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            self._state().url, timeout=timeout, connector=connector, headers=worker_headers(self._run_dir)
        ) as client:
            await self._ready(client)
            await self._read_weights(client)
            asking = [asyncio.create_task(self._ask_on(client)) for _ in range(self._clients)]
            beside = [asyncio.create_task(self._make_trouble(client)), asyncio.create_task(self._sample())]
            await asyncio.sleep(seconds)
            self._ending = True
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await asyncio.gather(*asking)
            await self._all_well(client)
            for name in TASKS:
                outcome = await self._one(client, name, stream=False, leave_after=None)
                self._tally.outcomes[outcome] += 1
                if outcome != "ok":
                    self._tally.wrong.append(f"task {name} ended with `{outcome}` when all was well again")
            await self._settle(client)
            return self._tally, await self._counted(client)

    # --- traffic ----------------------------------------------------------------------------------------------------

    async def _ask_on(self, client: aiohttp.ClientSession) -> None:
        while not self._ending:
            leaves = self._rng.random() < 0.1
            outcome = await self._one(
                client,
                self._rng.choice(TASKS),
                stream=self._rng.random() < 0.5,
                leave_after=self._rng.uniform(0.03, 0.3) if leaves else None,
            )
            self._tally.outcomes[outcome] += 1
            if outcome.startswith("wrong"):
                self._tally.wrong.append(outcome)

    async def _one(self, client: aiohttp.ClientSession, task: str, *, stream: bool, leave_after: float | None) -> str:
        """Send one request. Returns its one outcome; one that begins with `wrong` must never be."""
        prompt = [self._rng.randrange(VOCAB) for _ in range(self._rng.choice((4, 40, 400)))]
        count = self._rng.choice((1, 8, 40))
        body = {"model": task, "input_ids": prompt, "sampling_params": {"max_new_tokens": count}, "stream": stream}
        right = expected_tokens(self._weights[task], prompt, count, VOCAB)
        try:
            async with asyncio.timeout(leave_after):
                async with client.post("/generate", json=body) as reply:
                    raw = await reply.read()
                    return (
                        self._judge_stream(raw, right)
                        if stream and reply.status == 200
                        else _judge_whole(reply.status, raw, right)
                    )
        except TimeoutError:
            return "left" if leave_after is not None else f"wrong: no end within {PATIENCE_S:g} s"
        except aiohttp.ClientError as e:
            return f"wrong: the connection broke ({type(e).__name__})"

    @staticmethod
    def _judge_stream(raw: bytes, right: Sequence[int]) -> str:
        events = [e.removeprefix(b"data: ") for e in raw.split(b"\n\n") if e]
        if not events:
            return "wrong: an empty stream"
        if events[-1] == b"[DONE]":
            said = json.loads(events[-2])
            return "ok" if said["output_ids"] == right else "wrong: other tokens in a stream"
        return "error event" if "error" in json.loads(events[-1]) else "wrong: a stream without an end"

    # --- trouble ----------------------------------------------------------------------------------------------------

    async def _make_trouble(self, client: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause))
            workers = [p for p in self._state().processes if p.role != "router" and p.pid]
            if not workers:
                continue
            victim = self._rng.choice(workers)
            kind = self._rng.choice(("kill", "stop", "status", "abort", "die_at_token", "slow", "unresponsive"))
            with suppress(ProcessLookupError, aiohttp.ClientError, TimeoutError):
                await self._trouble(client, kind, victim)
                self._tally.trouble[kind] += 1

    async def _trouble(self, client: aiohttp.ClientSession, kind: str, victim: ProcessState) -> None:
        if kind == "kill":
            os.kill(victim.pid, signal.SIGKILL)
        elif kind == "stop":
            os.kill(victim.pid, signal.SIGSTOP)
            self._stopped.add(victim.pid)
            asyncio.get_running_loop().call_later(self._rng.uniform(0.2, 8.0), self._continue, victim.pid)
        else:
            fault: dict[str, Any] = {"kind": kind, "seconds": self._rng.uniform(0.5, 4.0)}
            fault |= {"token": self._rng.randrange(1, 9)} if kind == "die_at_token" else {}
            quick = aiohttp.ClientTimeout(total=1.0)
            async with client.post(f"{victim.url}/sun/fault", json=fault, timeout=quick) as reply:
                reply.raise_for_status()

    def _continue(self, pid: int) -> None:
        self._stopped.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _continue_all(self) -> None:
        for pid in tuple(self._stopped):
            self._continue(pid)

    async def _all_well(self, client: aiohttp.ClientSession) -> None:
        """End all trouble, and wait until every worker is over it: the router knows its process, and proved it."""
        self._continue_all()
        deadline = time.monotonic() + 120
        while True:
            await self._ready(client)
            if await self._clear_all(client):
                return
            if time.monotonic() > deadline:
                raise SystemExit("workers still come and go 120 s after the last trouble")
            await asyncio.sleep(0.2)

    async def _clear_all(self, client: aiohttp.ClientSession) -> bool:
        """Clear every worker's fault. Returns whether the router has them all as the processes that they are now."""
        known = await self._workers(client)
        try:
            for process in self._state().processes:
                if process.role == "router":
                    continue
                async with client.post(f"{process.url}/sun/fault", json={"kind": "clear"}) as reply:
                    reply.raise_for_status()
                async with client.get(f"{process.url}/sun/worker") as reply:
                    now = (await reply.json())["incarnation"]
                if (known[process.name]["incarnation"], known[process.name]["state"]) != (now, "ready"):
                    return False
        except aiohttp.ClientError:
            return False
        return True

    # --- what goes on -----------------------------------------------------------------------------------------------

    def _state(self) -> DeploymentState:
        state = read_state(self._run_dir)
        assert state is not None, "launched"
        return state

    async def _sample(self) -> None:
        while True:
            router = next(p for p in self._state().processes if p.role == "router")
            self._tally.memory.append(psutil.Process(router.pid).memory_full_info().uss / 2**20)
            await asyncio.sleep(1.0)

    async def _ready(self, client: aiohttp.ClientSession) -> None:
        """Wait until every worker is ready: whatever was done to it is over."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(aiohttp.ClientError):
                if all(w["state"] == "ready" for w in (await self._workers(client)).values()):
                    return
            await asyncio.sleep(0.2)
        raise SystemExit("the workers are not ready 120 s after the last trouble; see `wrong` in their logs")

    async def _workers(self, client: aiohttp.ClientSession) -> dict[str, dict[str, Any]]:
        """What the router says of each worker."""
        async with client.get("/tasks") as reply:
            tasks = (await reply.json())["tasks"]
        pools = [t[role] for t in tasks.values() for role in ("prefill", "decode")]
        return {w["name"]: w for pool in pools for w in pool["workers"]}

    async def _read_weights(self, client: aiohttp.ClientSession) -> None:
        for process in self._state().processes:
            if process.role == "prefill":
                async with client.get(f"{process.url}/sun/worker") as reply:
                    self._weights[process.pool] = (await reply.json())["identity"]["weights"]

    async def _settle(self, client: aiohttp.ClientSession) -> None:
        deadline = time.monotonic() + 30
        left: list[str] = ["not looked"]
        while left and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            gauges = await _metrics(client)
            left = [k for k, v in gauges.items() if v and k.startswith(("sun_in_flight", "sun_leg_in_flight"))]
            for process in self._state().processes:
                if process.role != "router":
                    async with client.get(f"{process.url}/v1/loads") as reply:
                        rank = (await reply.json())["loads"][0]
                    if rank["num_running_reqs"] or rank["num_waiting_reqs"] or rank["num_used_tokens"]:
                        left.append(f"{process.name} holds requests")
        self._tally.wrong += [f"left in flight 30 s after the end: {what}" for what in left]

    async def _counted(self, client: aiohttp.ClientSession) -> dict[str, int]:
        found: Counter[str] = Counter()
        for name, value in (await _metrics(client)).items():
            if name.startswith("sun_requests_total"):
                found[name.split('outcome="')[1].split('"')[0]] += int(value)
        return dict(sorted(found.items()))


async def _metrics(client: aiohttp.ClientSession) -> dict[str, float]:
    async with client.get("/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def _judge_whole(status: int, raw: bytes, right: Sequence[int]) -> str:
    reply = json.loads(raw)
    if status == 200:
        return "ok" if reply["output_ids"] == right else "wrong: other tokens in an answer"
    if status in (429, 502, 503, 504) and reply["error"]["message"]:
        return str(status)
    return f"wrong: {status} {raw[:200]!r}"


def _quarters(memory: Sequence[float]) -> list[float]:
    """Medians of the four quarters of a series."""
    size = len(memory) // 4
    return [round(statistics.median(memory[i * size : (i + 1) * size]), 1) for i in range(4)] if size else []


def _run_sun(*arguments: str) -> None:
    done = run_sun(*arguments)
    if done.returncode:
        raise SystemExit(f"`sun {arguments[0]}` failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    typer.run(main)
