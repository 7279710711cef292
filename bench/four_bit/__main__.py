"""Compare full precision, 4 bits on both sides, and QSUN on a CPU: TTFT, TPOT and throughput (SUN, Table 4).

    python -m sun_sglang.bench.four_bit

Makes the models where they are missing, and launches one deployment with every system. The systems take turns, so that
a change of the machine's speed meets all of them. Idle workers sleep.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sun_sglang.bench.figures.four_bit_table import render
from sun_sglang.bench.four_bit.load import Lengths, measure
from sun_sglang.bench.four_bit.model import GROUP_SIZE, OUT, SIZES, make_models
from sun_sglang.bench.four_bit.systems import BITS, Cell, cells
from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.report import RESULTS, Case, Run, new_report, write_report
from sun_sglang.errors import SunError
from sun_sglang.launch.discovery import run_dir_of
from sun_sglang.launch.state import read_state

TOPOLOGY = Path("configs/four_bit/systems.yaml")
_UNITS = {"ttft_ms": "ms", "tpot_ms": "ms", "throughput": "tokens/s"}
_WARM_UP = 8


def main(
    topology: Annotated[Path, typer.Option(help="The deployment; its tasks are the systems.")] = TOPOLOGY,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions of each cell.")] = 3,
    float32_rounds: Annotated[int, typer.Option(min=1, help="Repetitions in float32.")] = 1,
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="Users; repeat it (1, 4, 16).")] = None,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of a prompt.")] = 128,
    answer: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 48,
    per_user: Annotated[int, typer.Option(min=1, help="Requests of each user in a cell.")] = 2,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / "four_bit.json",
) -> None:
    """Measure every system at every concurrency, write the report and print its table."""
    console = Console(stderr=True, highlight=False)
    lengths, users = Lengths(prompt, answer, per_user), concurrency or [1, 4, 16]
    plan = list(cells(users, rounds, float32_rounds))
    if topology == TOPOLOGY:
        make_models(OUT, SIZES, console.print)
    if subprocess.run(sun_command("launch", str(topology), "--detach"), check=False).returncode:
        raise typer.Exit(1)
    try:
        runs = asyncio.run(_measure_all(_url(topology), plan, lengths, seed, console))
    except SunError as e:
        console.print(f"[red]{e}[/]")
        raise typer.Exit(1) from e
    finally:
        subprocess.run(sun_command("stop", str(topology)), check=False)
    command = (
        f"python -m sun_sglang.bench.four_bit --rounds {rounds} --float32-rounds {float32_rounds} "
        f"{' '.join(f'--concurrency {n}' for n in users)} --prompt {prompt} --answer {answer} --per-user {per_user}"
    )
    settings = {
        "prompt": prompt,
        "answer": answer,
        "per_user": per_user,
        "model": dict(SIZES),
        "group": GROUP_SIZE,
        # of the workers, which have this process's environment
        "dense_copy": os.environ.get("SUN_W4A16_DENSE_COPY") == "1",
    }
    report = new_report("four_bit", command, runs, _UNITS, seeds=[seed], settings=settings)
    write_report(report, out)
    typer.echo(render(report))


async def _measure_all(url: str, plan: list[Cell], lengths: Lengths, seed: int, console: Console) -> list[Run]:
    for system in BITS:
        # the first request of a pair of workers connects them, and the first pass touches every weight
        most = Cell(system, max(cell.concurrency for cell in plan), -1)
        await measure(url, most, Lengths(lengths.prompt, _WARM_UP, 1), seed)
    runs = list[Run]()
    for done, cell in enumerate(plan, start=1):
        found = await measure(url, cell, lengths, seed)
        case: Case = {"system": cell.system, "bits": BITS[cell.system], "concurrency": cell.concurrency}
        runs.append(Run(case=case, repetition=cell.repetition, seed=seed, values=found._asdict()))
        console.print(
            f"{done} of {len(plan)}: {cell.system} at {cell.concurrency}: TTFT {found.ttft_ms:.0f} ms, TPOT "
            f"{found.tpot_ms:.1f} ms, {found.throughput:.1f} tokens/s"
        )
    return runs


def _url(topology: Path) -> str:
    state = read_state(run_dir_of(topology))
    assert state is not None, "the launch succeeded"
    return state.url


if __name__ == "__main__":
    typer.run(main)
