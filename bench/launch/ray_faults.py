"""Real SGLang workers across two Ray nodes on this machine: exact answers, and what is lost when something is killed.

    python -m sun_sglang.bench.launch.ray_faults --streams 16

The answers of a deployment of the local place are the right ones. Greedy streams then run over the same topology with
`place: ray` while a worker, its actor, a node's raylet and the launcher are killed in turn; at the end the deployment
is stopped without a launcher. The report has a run for each event. Exits with 1 if an answer differs, a client notices
a loss that the router should hide, a worker is restarted that should live on, or a process is left.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import psutil
import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.failover.deployment import SIZES
from sun_sglang.bench.gpu_check.deployment import Client, Deployment, launch
from sun_sglang.bench.gpu_check.errors import CheckError, require
from sun_sglang.bench.gpu_check.models.checkpoints import write_checkpoint
from sun_sglang.bench.launch.listening import listening_sockets
from sun_sglang.bench.launch.ray_cluster import TwoNodes, add_node, kill_raylet, two_nodes
from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import run_sun
from sun_sglang.bench.provenance import JsonObject
from sun_sglang.bench.report import RESULTS, Outcome, Report, Run, new_report, write_report
from sun_sglang.cpu import define_torchvision_schemas
from sun_sglang.launch.state import ProcessState
from sun_sglang.processes import group_of

UNITS = {
    "streams": "1",
    "errors": "1",
    "differ": "1",
    "restarted": "1",
    "left_processes": "1",
    "seconds_gone": "s",
    "seconds_to_answer": "s",
    "seconds_to_whole": "s",
    "refused_without_key": "1",
}
_TASK = "math"
_CPUS = 2
_WITHIN = 300.0
_EVENTS_BEFORE = 2
Answers = list[list[int] | None]


def main(
    streams: Annotated[int, typer.Option(min=1, help="Concurrent streams.")] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    out: Annotated[Path, typer.Option(help="The report; written after each event.")] = RESULTS
    / "launch_ray_faults.json",
) -> None:
    """Kill in turn what a deployment on Ray consists of, and write the report."""
    settings = {"streams": streams, "length": length, "nodes": 2, "cpus_per_node": _CPUS}
    runs: list[Run] = []

    def note(run: Run) -> None:
        runs.append(run)
        Console(stderr=True).print(run.case, run.outcome, run.message, run.values)
        write_report(_report(runs, seed, settings), out)

    rng = random.Random(seed)
    prompts = [[rng.randrange(5, 260) for _ in range(40)] for _ in range(streams)]
    with tempfile.TemporaryDirectory() as directory, two_nodes(_CPUS) as nodes:
        folder = Path(directory)
        define_torchvision_schemas()
        for number, name in enumerate(("base", _TASK)):
            write_checkpoint(folder / name, "llama", number, "float32", **SIZES)
        asyncio.run(RayFaults(folder, nodes, prompts, length, note).run())
    report = _report(runs, seed, settings)
    Console().print(_table(report))
    if not report.passed:
        raise typer.Exit(1)


def _report(runs: Sequence[Run], seed: int, settings: Mapping[str, int]) -> Report:
    command = (
        f"python -m sun_sglang.bench.launch.ray_faults --streams {settings['streams']} --length {settings['length']}"
    )
    return new_report("launch_ray_faults", command, list(runs), UNITS, seeds=[seed], settings={**settings})


def _table(report: Report) -> Table:
    table = Table("event", "outcome", *UNITS)
    for run in report.runs:
        values = (f"{run.values[unit]:g}" if unit in run.values else "" for unit in UNITS)
        table.add_row(str(run.case["event"]), run.outcome or "", *values)
    return table


class RayFaults:
    """The events over one deployment.

    Args:
        folder: holds the models.
        nodes: the cluster.
        prompts: token ids, one list for each stream.
        length: tokens of an answer.
        note: called with each run.
    """

    def __init__(
        self,
        folder: Path,
        nodes: TwoNodes,
        prompts: Sequence[list[int]],
        length: int,
        note: Callable[[Run], None],
    ) -> None:
        self._folder = folder
        self._nodes = nodes
        self._prompts = prompts
        self._length = length
        self._note = note
        self._right: Answers = []
        self._deployment: Deployment
        self._client: Client

    async def run(self) -> None:
        """Read the right answers, launch on Ray, and cause every event."""
        await self._read_right_answers()
        self._deployment = await self._launch()
        try:
            await self._with_client(self._unbroken)
            await self._with_client(lambda: self._lose("worker", self._kill_worker, restarted=1))
            await self._with_client(lambda: self._lose("actor", self._kill_actor, restarted=1))
            await self._with_client(self._lose_node)
            await self._lose_launcher()
            await self._stop_without_launcher()
        finally:
            self._deployment.close()

    def _topology(self, place: Any) -> dict[str, Any]:
        return {
            "pools": {
                "base": {"role": "decode", "model": str(self._folder / "base"), "replicas": 2},
                _TASK: {"role": "prefill", "model": str(self._folder / _TASK)},
            },
            "tasks": {_TASK: {"prefill": _TASK, "decode": "base"}},
            "engine": {"dtype": "float32", "max_total_tokens": 16384},
            "router": {"port": 0},
            "place": place,
        }

    async def _launch(self) -> Deployment:
        place = {"kind": "ray", "address": self._nodes.address, "room_timeout": 60}
        return await asyncio.to_thread(launch, self._topology(place), self._folder / "ray")

    async def _with_client(self, event: Callable[[], Awaitable[None]]) -> None:
        async with self._deployment.client() as self._client:
            await wait_until(self._client.is_whole, "every path is proven", within=_WITHIN, interval=0.1)
            await event()

    async def _read_right_answers(self) -> None:
        self._deployment = await asyncio.to_thread(launch, self._topology("local"), self._folder / "local")
        try:
            async with self._deployment.client() as self._client:
                self._right = await asyncio.gather(*map(self._answer, self._prompts))
        finally:
            self._deployment.close()
        require(None not in self._right, "a stream of the local place ends with an error")

    async def _answer(self, prompt: Sequence[int], begun: asyncio.Event | None = None) -> list[int] | None:
        """Return the tokens of a streamed answer; None where it ends with an error."""
        tokens: list[int] = []
        events = 0
        try:
            async for chunk in self._client.stream(_TASK, prompt, self._length):
                # each chunk has all tokens so far, as SGLang streams them by default
                tokens = (
                    chunk["output_ids"] if len(chunk["output_ids"]) >= len(tokens) else tokens + chunk["output_ids"]
                )
                events += 1
                if begun is not None and events >= _EVENTS_BEFORE:
                    begun.set()
        except (CheckError, aiohttp.ClientError, OSError) as e:
            Console(stderr=True).print(f"a stream ends with: {e!r}")
            return None
        finally:
            if begun is not None:
                begun.set()
        return tokens

    async def _unbroken(self) -> None:
        answers = await asyncio.gather(*map(self._answer, self._prompts))
        values = self._compared(answers) | {"refused_without_key": await self._refused_without_key()}
        workers = self._workers()
        hosts = {worker.url.rpartition(":")[0] for worker in workers.values()}
        details: JsonObject = {
            "workers": {name: worker.url for name, worker in workers.items()},
            "listening": {name: [*listening_sockets(worker.pid)] for name, worker in workers.items()},
        }
        passed = not values["errors"] and not values["differ"] and len(hosts) == 2
        passed = passed and values["refused_without_key"] == len(workers)
        self._note(Run(case={"event": "none"}, outcome=_outcome(passed), values=values, details=details))

    async def _refused_without_key(self) -> int:
        """Return how many workers answer a request without the worker key with 401."""
        count = 0
        async with aiohttp.ClientSession() as session:
            for worker in self._workers().values():
                async with session.post(f"{worker.url}/generate", json={"input_ids": [5]}) as reply:
                    count += reply.status == 401
        return count

    async def _lose(
        self,
        event: str,
        kill: Callable[[], Sequence[ProcessState]],
        *,
        restarted: int,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Kill something under streams, and note what the clients notice and when all is as before.

        Args:
            event: its name.
            kill: kills it, and returns the workers that are lost with it.
            restarted: how many workers should be started again.
            then: called once these workers have ended.
        """
        before, proven = self._workers(), await self._incarnations()
        begun = [asyncio.Event() for _ in self._prompts]
        streams = [asyncio.create_task(self._answer(*one)) for one in zip(self._prompts, begun, strict=True)]
        await asyncio.gather(*(one.wait() for one in begun))
        at = time.monotonic()
        lost = kill()
        values: dict[str, int | float] = {}
        await _until_gone([worker.pid for worker in lost])
        values["seconds_gone"] = round(time.monotonic() - at, 2)
        then()
        await self._until_answer()
        values["seconds_to_answer"] = round(time.monotonic() - at, 2)
        values = self._compared(await asyncio.gather(*streams)) | values
        await wait_until(lambda: self._is_whole_after(proven, lost), "all is whole", within=_WITHIN, interval=0.1)
        values["seconds_to_whole"] = round(time.monotonic() - at, 2)
        after = self._workers()
        values["restarted"] = sum(after[name].pid != worker.pid for name, worker in before.items())
        hidden = all(worker.role == "decode" for worker in lost) and len(lost) == 1
        passed = not values["differ"] and values["restarted"] == restarted and not (hidden and values["errors"])
        details: JsonObject = {
            "lost": [worker.name for worker in lost],
            "detail": {name: worker.detail for name, worker in after.items()},
        }
        self._note(Run(case={"event": event}, outcome=_outcome(passed), values=values, details=details))

    async def _lose_node(self) -> None:
        host = f"http://{self._nodes.second.node_ip_address}:"
        lost = [worker for worker in self._workers().values() if worker.url.startswith(host)]

        def kill() -> Sequence[ProcessState]:
            kill_raylet(self._nodes.second)
            return lost

        # in this thread, which waits some seconds for it: Ray starts nodes in the main thread alone
        replace = partial(add_node, self._nodes.cluster, "127.0.0.4", _CPUS)
        await self._lose("raylet", kill, restarted=len(lost), then=replace)

    async def _lose_launcher(self) -> None:
        before, at = self._workers(), time.monotonic()
        os.kill(self._deployment.state.pid, signal.SIGKILL)
        await _until_gone([p.pid for p in self._deployment.state.processes if p.role == "router"])
        values: dict[str, int | float] = {"seconds_gone": round(time.monotonic() - at, 2)}
        self._deployment = await self._launch()
        values["seconds_to_answer"] = values["seconds_to_whole"] = round(time.monotonic() - at, 2)
        after = self._workers()
        values["restarted"] = sum(after[name].pid != worker.pid for name, worker in before.items())
        async with self._deployment.client() as self._client:
            answers = await asyncio.gather(*map(self._answer, self._prompts))
        values = self._compared(answers) | values
        passed = not values["errors"] and not values["differ"] and not values["restarted"]
        message = "streams of the killed launcher's router end with it; these ones began after the next launch"
        self._note(Run(case={"event": "launcher"}, outcome=_outcome(passed), message=message, values=values))

    async def _stop_without_launcher(self) -> None:
        groups = [worker.pid for worker in self._workers().values()]
        os.kill(self._deployment.state.pid, signal.SIGKILL)
        at = time.monotonic()
        stop = ("stop", "--run-dir", str(self._deployment.run_dir))
        done = await asyncio.to_thread(run_sun, *stop, timeout=_WITHIN)
        values = {"left_processes": len(members(groups)), "seconds_gone": round(time.monotonic() - at, 2)}
        passed = done.returncode == 0 and not values["left_processes"]
        self._note(Run(case={"event": "stop without a launcher"}, outcome=_outcome(passed), values=values))

    def _workers(self) -> dict[str, ProcessState]:
        return {process.name: process for process in self._deployment.state.processes if process.pool}

    def _kill_worker(self) -> Sequence[ProcessState]:
        victim = self._workers()["base-0"]
        os.kill(victim.pid, signal.SIGKILL)
        return [victim]

    def _kill_actor(self) -> Sequence[ProcessState]:
        victim = self._workers()["base-1"]
        os.kill(psutil.Process(victim.pid).ppid(), signal.SIGKILL)
        return [victim]

    async def _until_answer(self) -> None:
        """Wait until a new request is answered; the router hides a lost decode worker, so that is at once."""

        async def is_answered() -> bool:
            with suppress(CheckError, aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(20):
                    await self._client.generate(_TASK, self._prompts[0], 2)
                return True
            return False

        await wait_until(is_answered, "a new request is answered", within=_WITHIN, interval=0.1)

    async def _is_whole_after(self, before: Mapping[str, str], lost: Sequence[ProcessState]) -> bool:
        """Return whether the router serves a later start of each lost worker, and every path is proven."""
        now = await self._incarnations()
        again = all(now.get(worker.name, before[worker.name]) != before[worker.name] for worker in lost)
        return again and await self._client.is_whole()

    async def _incarnations(self) -> dict[str, str]:
        """Return the start of each worker that the router serves requests with, by name."""
        async with self._client.session.get(f"{self._client.router}/tasks") as reply:
            task = (await reply.json())["tasks"][_TASK]
        workers = (*task["prefill"]["workers"], *task["decode"]["workers"])
        return {worker["name"]: worker["incarnation"] for worker in workers if worker["state"] == "ready"}

    def _compared(self, answers: Sequence[list[int] | None]) -> dict[str, int | float]:
        both = list(zip(answers, self._right, strict=True))
        return {
            "streams": len(answers),
            "errors": sum(answer is None for answer, _ in both),
            "differ": sum(answer is not None and answer != right for answer, right in both),
        }


def members(groups: Sequence[int]) -> list[int]:
    """Return the processes of some process groups that have not ended."""
    found = ((pid, group_of(pid)) for pid in psutil.pids())
    return [pid for pid, group in found if group is not None and group[0] in groups]


async def _until_gone(groups: Sequence[int]) -> None:
    await wait_until(lambda: not members(groups), "no process is left", within=_WITHIN)


def _outcome(passed: bool) -> Outcome:
    return "passed" if passed else "failed"


if __name__ == "__main__":
    typer.run(main)
