"""Tokens that the prefill workers compute and hold when several tasks read one context (PrefillShare, eq. 8 and 9).

    python -m sun_sglang.bench.shared_context configs/smollm2/prefillshare.yaml configs/smollm2/isolated.yaml

Starts each topology. For 1, 2, ... N of its tasks, it sends a new random context with some tokens of the task's own to
each of them, and then the same with some tokens more. SGLang's counters tell what the prefill and the decode workers
had in their caches.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.errors import UserError
from sun_sglang.launch.discovery import run_dir_of
from sun_sglang.launch.state import read_state
from sun_sglang.topology_file import load_topology

_UNITS = dict.fromkeys(("computed", "formula", "computed_again", "prefill_hits", "decode_hits"), "tokens")
# every vocabulary has these ids, and none of them ends an answer
_IDS = range(100, 200)


class Found(NamedTuple):
    """What SGLang counted for one prompt, in tokens.

    Attributes:
        prompt: its length.
        prefill: of these, in the prefill worker's cache.
        decode: in the decode worker's cache.
    """

    prompt: int
    prefill: int
    decode: int


def main(
    topologies: Annotated[list[Path], typer.Argument(help="The topologies, started one after the other.")],
    context: Annotated[int, typer.Option(min=64, help="tokens that all tasks share")] = 1024,
    unique: Annotated[int, typer.Option(min=16, help="tokens of each task's own, and of each one's next call")] = 64,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "shared_context.json",
) -> None:
    """Measure every topology, print a table and write the report."""
    runs: list[Run] = []
    for file in topologies:
        if subprocess.run(sun_command("launch", str(file), "--detach"), check=False).returncode:
            raise typer.Exit(1)
        try:
            runs += asyncio.run(measure_running(file, context, unique, random.Random(seed)))
        except UserError as e:
            typer.echo(str(e), err=True)
            raise typer.Exit(1) from e
        finally:
            subprocess.run(sun_command("stop", str(file)), check=False)
    command = f"python -m sun_sglang.bench.shared_context {' '.join(map(str, topologies))}"
    settings = {"context": context, "unique": unique}
    write_report(new_report("shared_context", command, runs, _UNITS, seeds=[seed], settings=settings), out)
    Console().print(table(runs))


async def measure_running(file: Path, context: int, unique: int, rng: random.Random) -> list[Run]:
    """Measure the running deployment of a topology; see `measure`."""
    state, tasks = read_state(run_dir_of(file)), load_topology(file).tasks
    assert state is not None, "the launch succeeded"
    prefill = {name: task.prefill for name, task in tasks.items()}
    async with aiohttp.ClientSession(state.url) as session:
        return await measure(session, file.stem, prefill, context, unique, rng)


async def measure(
    session: aiohttp.ClientSession, name: str, prefill: Mapping[str, str], context: int, unique: int, rng: random.Random
) -> list[Run]:
    """Return a run for each number of tasks.

    Args:
        session: of the router's URL.
        name: of the topology.
        prefill: the prefill pool of each task.
        context: tokens that all tasks share.
        unique: tokens of each task's own.
        rng: draws the prompts.

    Raises:
        UserError: the router refused a request.
    """
    runs, tasks = list[Run](), list(prefill)
    for count in range(1, len(tasks) + 1):
        shared = rng.choices(_IDS, k=context)
        prompts = {task: shared + rng.choices(_IDS, k=unique) for task in tasks[:count]}
        first = [await ask(session, task, prompt, f"{count}") for task, prompt in prompts.items()]
        more = {task: prompt + rng.choices(_IDS, k=unique) for task, prompt in prompts.items()}
        second = [await ask(session, task, prompt, f"{count}") for task, prompt in more.items()]
        copies = len({prefill[task] for task in prompts})
        values: dict[str, int | float] = {
            "computed": _computed(first),
            "formula": copies * context + count * unique,
            "computed_again": _computed(second),
            "prefill_hits": sum(found.prefill for found in second),
            "decode_hits": sum(found.decode for found in second),
        }
        runs.append(Run(case={"topology": name, "tasks": count}, values=values))
    return runs


async def ask(session: aiohttp.ClientSession, task: str, prompt: Sequence[int], name: str) -> Found:
    """Send one prompt as a request of a session; return what SGLang counted.

    Raises:
        UserError: the router refused it.
    """
    body = {"model": task, "input_ids": prompt, "sampling_params": {"max_new_tokens": 2, "temperature": 0}}
    async with session.post("/generate", json=body, headers={"X-Sun-Session": name}) as reply:
        if reply.status != 200:
            raise UserError(f"{task}: {await reply.text()}")
        meta: dict[str, Any] = (await reply.json())["meta_info"]
    details = meta.get("cached_tokens_details") or {}
    return Found(len(prompt), meta["cached_tokens"], details.get("decode", 0))


def table(runs: Sequence[Run]) -> Table:
    """Return a table with a row for each run."""
    drawn = Table("topology", "tasks", title="Prompt tokens", title_justify="left")
    for column in ("computed", "formula", "computed again", "hits, prefill", "hits, decode"):
        drawn.add_column(column, justify="right")
    for run in runs:
        drawn.add_row(str(run.case["topology"]), str(run.case["tasks"]), *(f"{run.values[name]:,}" for name in _UNITS))
    return drawn


def _computed(found: Sequence[Found]) -> int:
    return sum(one.prompt - one.prefill for one in found)


if __name__ == "__main__":
    typer.run(main)
