"""Serve the demo's tasks, send each a few questions, and show that one batch decoded their answers (`make demo`).

    python -m sun_sglang.bench.demo configs/demo/sun.yaml

The questions are in `data/TASK.demo.jsonl` beside the topology file.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sun_sglang.bench.client import Completion, stream_completion
from sun_sglang.bench.processes import sun_command
from sun_sglang.launch.discovery import run_dir_of
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState, read_state
from sun_sglang.topology import Topology
from sun_sglang.topology_file import load_topology

_MAX_TOKENS = 96
_WARM_UP = "hello"


@dataclass(frozen=True)
class Question:
    """A question to one task, and its right answer."""

    task: str
    messages: tuple[dict[str, Any], ...]
    answer: str


@dataclass(frozen=True)
class LargestBatch:
    """The largest decode batch that was observed.

    Attributes:
        worker: name of its worker.
        size: requests in it.
        largest_task: most requests that one task sent.
    """

    worker: str
    size: int
    largest_task: int

    @property
    def merged(self) -> bool:
        """Whether the batch must have held requests of more than one task."""
        return self.size > self.largest_task


def main(arguments: Sequence[str]) -> int:
    """Run the demo and return the exit code: 0 if every task answered, also if an answer is wrong."""
    file = Path(arguments[0] if arguments else "configs/demo/sun.yaml")
    console = Console(highlight=False)
    topology = load_topology(file)
    questions = [q for task in topology.tasks for q in read_questions(file, task)]
    console.rule(f"sun launch {file}")
    if _sun("launch", str(file), "--detach") != 0:
        return 1
    try:
        state = read_state(run_dir_of(file))
        assert state is not None, "the launch succeeded"
        answers, batch = asyncio.run(send_questions(state, topology, questions, worker_headers(run_dir_of(file))))
    finally:
        console.rule(f"sun stop {file}")
        _sun("stop", str(file))
    _show(console, questions, answers)
    if len({task.decode for task in topology.tasks.values()}) < len(topology.tasks):
        console.print(_batch_text(batch))
    else:
        console.print("The tasks have decode workers of their own: no batch has requests of two tasks.")
    return 0


def read_questions(topology: Path, task: str) -> list[Question]:
    """Return the demo questions of a task, which lie beside the topology file."""
    lines = (topology.parent / "data" / f"{task}.demo.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Question(task, tuple(row["messages"]), row["answer"]) for row in rows]


async def send_questions(
    state: DeploymentState, topology: Topology, questions: Sequence[Question], headers: Mapping[str, str]
) -> tuple[list[Completion], LargestBatch]:
    """Send all questions at once, and observe the decode batches while they are answered.

    Args:
        state: the deployment's state.
        topology: its topology.
        questions: the questions.
        headers: headers that its workers require.
    """
    async with AsyncOpenAI(base_url=f"{state.url}/v1", api_key="none", max_retries=0) as client:
        for task in topology.tasks:
            await stream_completion(client, task, [{"role": "user", "content": _WARM_UP}], 8)
        watching = asyncio.create_task(_watch_batches(state, headers))
        answers = await asyncio.gather(*(stream_completion(client, q.task, q.messages, _MAX_TOKENS) for q in questions))
        watching.cancel()
        worker, size = await watching
    asked = [q.task for q in questions]
    return answers, LargestBatch(worker, size, max(asked.count(task) for task in topology.tasks))


async def _watch_batches(state: DeploymentState, headers: Mapping[str, str]) -> tuple[str, int]:
    workers = [p for p in state.processes if p.role == "decode"]
    fullest = (workers[0].name, 0)
    async with aiohttp.ClientSession(headers=headers) as session:
        try:
            while True:
                for worker in workers:
                    fullest = max(fullest, (worker.name, await _running(session, worker.url)), key=lambda f: f[1])
        except asyncio.CancelledError:
            return fullest


async def _running(session: aiohttp.ClientSession, url: str) -> int:
    """Return the number of requests in a worker's running batch."""
    async with session.get(f"{url}/v1/loads") as reply:
        loads = (await reply.json())["loads"]
    return sum(int(load["num_running_reqs"]) for load in loads)


def _sun(*arguments: str) -> int:
    return subprocess.run(sun_command(*arguments), check=False).returncode


def _show(console: Console, questions: Sequence[Question], answers: Sequence[Completion]) -> None:
    table = Table("task", "question", "answer", "right", title="Answers, as streamed", title_justify="left")
    for question, answer in zip(questions, answers, strict=True):
        right = answer.text == question.answer
        mark = "[green]yes[/]" if right else f"[red]no[/]: {escape(question.answer)}"
        table.add_row(question.task, escape(question.messages[-1]["content"]), escape(answer.text), mark)
    console.print(table)
    times = Table("task", "right", "TTFT ms", "TPOT ms", title="Per task (medians)", title_justify="left")
    for task in dict.fromkeys(q.task for q in questions):
        own = [(q, a) for q, a in zip(questions, answers, strict=True) if q.task == task]
        correct = sum(q.answer == a.text for q, a in own)
        ttft = statistics.median(a.ttft for _, a in own)
        tpot = statistics.median(a.tpot for _, a in own if a.tpot is not None)
        times.add_row(task, f"{correct} of {len(own)}", f"{1000 * ttft:.0f}", f"{1000 * tpot:.1f}")
    console.print(times)


def _batch_text(batch: LargestBatch) -> str:
    verdict = "tasks were decoded in one merged batch" if batch.merged else "no merged batch was observed"
    return (
        f"`{batch.worker}` had {batch.size} requests in one decode batch; no task sent more than "
        f"{batch.largest_task}: [bold]{verdict}[/]."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
