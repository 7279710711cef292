"""Serve the demo's tasks, send each a few questions, and show that one batch decoded their answers (`make demo`).

    python -m sun_sglang.bench.demo configs/demo/sun.yaml

Without a topology file it makes SmolLM2-135M-Instruct and serves its adapters (`configs/demo/adapters.yaml`); where
that model cannot be had, it serves the tiny models. The questions are in `data/TASK.demo.jsonl` beside the topology
file. Where a task is the untuned model itself, its answers to the same prompts are shown beside.
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
from typing import Any, cast

import aiohttp
from openai import AsyncOpenAI
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sun_sglang.bench.client import Completion, stream_completion
from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.smollm2.english.scorers import accepted_call
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.model import BASE, REQUIREMENTS, make_model
from sun_sglang.launch.discovery import run_dir_of
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState, read_state
from sun_sglang.topology import Topology
from sun_sglang.topology_file import load_topology

ADAPTERS = Path("configs/demo/adapters.yaml")
TINY = Path("configs/demo/sun.yaml")
_MAX_TOKENS = 96
_UNTUNED_TOKENS = 32
_WARM_UP = "hello"


@dataclass(frozen=True)
class Question:
    """A question to one task, and its right answer.

    Attributes:
        task: the task.
        messages: the prompt.
        answer: the right answer.
        accepted: what a right call may be, for a task whose answers are calls; None where `answer` alone is right.
    """

    task: str
    messages: tuple[dict[str, Any], ...]
    answer: str
    accepted: Mapping[str, Any] | None = None

    def is_answered_by(self, text: str) -> bool:
        """Return whether an answer is right."""
        return text == self.answer if self.accepted is None else accepted_call(text, {"accepted": self.accepted})


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
    console = Console(highlight=False)
    file = Path(arguments[0]) if arguments else default_topology(console)
    topology = load_topology(file)
    untuned = untuned_task(topology)
    questions = [q for task in topology.tasks if task != untuned for q in read_questions(file, task)]
    console.rule(f"sun launch {file}")
    if _sun("launch", str(file), "--detach") != 0:
        return 1
    try:
        state = read_state(run_dir_of(file))
        assert state is not None, "the launch succeeded"
        headers = worker_headers(run_dir_of(file))
        answers, batch = asyncio.run(send_questions(state, topology, questions, headers))
        plain = asyncio.run(send_to_untuned(state, untuned, questions)) if untuned is not None else None
    finally:
        console.rule(f"sun stop {file}")
        _sun("stop", str(file))
    _show(console, questions, answers, plain)
    if len({task.decode for task in topology.tasks.values()}) < len(topology.tasks):
        console.print(_batch_text(batch))
    else:
        console.print("The tasks have decode workers of their own: no batch has requests of two tasks.")
    return 0


def default_topology(console: Console) -> Path:
    """Return the topology of SmolLM2's adapters, with its model made; that of the tiny models where it cannot be."""
    try:
        make_model(BASE, REQUIREMENTS, None, lambda line: console.print(line, markup=False))
    except ModelError as e:
        console.print(f"{e}\nThe demo serves its tiny models instead.", markup=False)
        return TINY
    return ADAPTERS


def untuned_task(topology: Topology) -> str | None:
    """Return the task that is the model of the adapters' pools as it is; None where there is none."""
    adapted = {(task.prefill, task.decode) for task in topology.tasks.values() if task.adapter is not None}
    plain = (n for n, task in topology.tasks.items() if task.adapter is None and (task.prefill, task.decode) in adapted)
    return next(plain, None)


def read_questions(topology: Path, task: str) -> list[Question]:
    """Return the demo questions of a task, which lie beside the topology file."""
    lines = (topology.parent / "data" / f"{task}.demo.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Question(task, tuple(row["messages"]), row["answer"], row.get("accepted")) for row in rows]


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


async def send_to_untuned(state: DeploymentState, task: str, questions: Sequence[Question]) -> list[str]:
    """Return the beginning of the untuned model's answer to each question.

    Args:
        state: the deployment's state.
        task: the task that is the untuned model.
        questions: the questions.
    """
    async with AsyncOpenAI(base_url=f"{state.url}/v1", api_key="none", max_retries=0) as client:
        sent = (
            client.chat.completions.create(
                model=task, messages=cast(Any, q.messages), max_tokens=_UNTUNED_TOKENS, temperature=0
            )
            for q in questions
        )
        return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*sent)]


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


def _show(
    console: Console, questions: Sequence[Question], answers: Sequence[Completion], plain: Sequence[str] | None
) -> None:
    columns = ["task", "question", "answer", "right", *([] if plain is None else ["the untuned model"])]
    table = Table(*columns, title="Answers, as streamed", title_justify="left", show_lines=plain is not None)
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        right = question.is_answered_by(answer.text)
        mark = "[green]yes[/]" if right else f"[red]no[/]: {escape(question.answer)}"
        row = [question.task, escape(question.messages[-1]["content"]), escape(answer.text), mark]
        table.add_row(*row, *([] if plain is None else [escape(" ".join(plain[i].split()))]))
    console.print(table)
    times = Table("task", "right", "TTFT ms", "TPOT ms", title="Per task (medians)", title_justify="left")
    for task in dict.fromkeys(q.task for q in questions):
        own = [(q, a) for q, a in zip(questions, answers, strict=True) if q.task == task]
        correct = sum(q.is_answered_by(a.text) for q, a in own)
        ttft = statistics.median(a.ttft for _, a in own)
        tpots = [a.tpot for _, a in own if a.tpot is not None]
        tpot = f"{1000 * statistics.median(tpots):.1f}" if tpots else ""
        times.add_row(task, f"{correct} of {len(own)}", f"{1000 * ttft:.0f}", tpot)
    console.print(times)


def _batch_text(batch: LargestBatch) -> str:
    verdict = "tasks were decoded in one merged batch" if batch.merged else "no merged batch was observed"
    return (
        f"`{batch.worker}` had {batch.size} requests in one decode batch; no task sent more than "
        f"{batch.largest_task}: [bold]{verdict}[/]."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
