"""What readers of streams notice of a decode worker that is lost, drained or restarted: real SGLang workers.

    python -m sun_sglang.bench.failover.losses --rounds 20 --streams 64

Greedy streams of every kind (`streams.py`) run over two decode workers. In each round one of them is killed, stopped,
or loses its HTTP server once the streams have brought a few events, or many; the streams must equal those of an
unbroken run. Every fourth round is on tasks without failover. After the rounds: a drain that waits, a drain that moves
the answers, and a rolling restart of both decode workers under streams. The report has a run for each.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import aiohttp
import orjson
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from sun_sglang.bench.failover.deployment import DECODERS, LOSSES, TASKS, launched, lose
from sun_sglang.bench.failover.streams import Stream, have_brought, make_streams, now
from sun_sglang.bench.gpu_check.deployment import Client, Deployment
from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import sun_command
from sun_sglang.bench.report import RESULTS, Case, Outcome, Report, Run, new_report, write_report

UNITS = {
    "streams": "1",
    "errors": "1",
    "differ": "1",
    "replays": "1",
    "replayed_tokens": "1",
    "silence_median": "s",
    "silence_most": "s",
    "seconds": "s",
}
_WITHIN = 600.0
# see `have_brought`
_AFTER = (2, 60, 150, 2, 150)
Happen = Callable[[], Awaitable[None]]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Losses.")] = 20,
    streams: Annotated[int, typer.Option(min=8, help="Concurrent streams.")] = 64,
    length: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    out: Annotated[Path, typer.Option(help="The report; written after each round.")] = RESULTS / "failover_losses.json",
) -> None:
    """Lose decode workers under streams, and write the report. Exits with 1 if a client notices a loss."""
    settings = {"rounds": rounds, "streams": streams, "length": length}
    runs: list[Run] = []

    def note(run: Run) -> None:
        runs.append(run)
        Console(stderr=True).print(run.case, run.outcome, run.values)
        write_report(_report(runs, seed, settings), out)

    with tempfile.TemporaryDirectory() as folder, launched(Path(folder)) as deployment:
        asyncio.run(Losses(deployment, make_streams(TASKS, seed, streams, length), note).run(rounds))
    if not _report(runs, seed, settings).passed:
        raise typer.Exit(1)


def _report(runs: Sequence[Run], seed: int, settings: dict[str, int]) -> Report:
    command = "python -m sun_sglang.bench.failover.losses " + " ".join(f"--{k} {v}" for k, v in settings.items())
    return new_report("failover_losses", command, list(runs), UNITS, seeds=[seed], settings={**settings})


class Losses:
    """The rounds over one deployment.

    Args:
        deployment: the deployment.
        made: the streams of each round.
        note: called with each run.
    """

    def __init__(self, deployment: Deployment, made: Sequence[Stream], note: Callable[[Run], None]) -> None:
        self._deployment = deployment
        self._made = made
        self._note = note
        self._right: list[Stream] = []
        self._session: aiohttp.ClientSession
        self._client: Client

    async def run(self, rounds: int) -> None:
        """Run every round, the drains and the rolling restart."""
        timeout, connector = aiohttp.ClientTimeout(total=_WITHIN), aiohttp.TCPConnector(limit=0)
        async with (
            self._deployment.client() as self._client,
            aiohttp.ClientSession(self._deployment.state.url, timeout=timeout, connector=connector) as self._session,
        ):
            await self._whole()
            self._right = await self._unbroken(self._made)
            again = await self._unbroken(self._made)
            self._note(Run(case={"event": "none", "failover": True}, values=self._compared(again)))
            for number in range(rounds):
                await self._round(number)
            for move in (False, True):
                await self._drain(move)
            await self._rolling_restart()

    async def _round(self, number: int) -> None:
        loss, victim, failover = LOSSES[number % 3], DECODERS[number // 3 % 2], number % 4 != 3
        made = self._made if failover else [_without_failover(stream) for stream in self._made]
        before = await self._replays()
        ends: list[Callable[[], None]] = []

        async def happen() -> None:
            ends.append(lose(self._deployment, victim, loss))

        found = await self._broken_by(made, happen, _AFTER[number % len(_AFTER)])
        ends[0]()
        replays, tokens = await self._replays()
        values = self._compared(found)
        values |= {"replays": replays - before[0], "replayed_tokens": tokens - before[1]}
        good = not values["errors"] and values["differ"] <= 1
        outcome: Outcome | None = None
        if failover:
            outcome = "passed" if good else "failed"
        self._note(Run(case={"event": loss, "failover": failover}, repetition=number, outcome=outcome, values=values))
        await self._whole()

    async def _drain(self, move: bool) -> None:
        seconds = 0.0

        async def happen() -> None:
            nonlocal seconds
            begun = now()
            await self._post(f"/workers/{DECODERS[0]}/drain", {"move": move})
            await wait_until(self._in_flight, "it is empty", within=_WITHIN, accept=lambda left: left == 0)
            seconds = now() - begun

        found = await self._broken_by(self._made, happen, _AFTER[1])
        await self._post(f"/workers/{DECODERS[0]}/resume", {})
        values = self._compared(found) | {"seconds": seconds}
        case: Case = {"event": "drain with --move" if move else "drain", "failover": True}
        self._note(Run(case=case, outcome="failed" if values["errors"] else "passed", values=values))
        await self._whole()

    async def _rolling_restart(self) -> None:
        done, found = asyncio.Event(), list[Stream]()

        async def keep_asking() -> None:
            while not done.is_set():
                found.extend(await self._unbroken(self._made))

        load, begun = asyncio.create_task(keep_asking()), now()
        command = sun_command("workers", "restart", "base", "--run-dir", str(self._deployment.run_dir), "--json")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        seconds = now() - begun
        done.set()
        await load
        values = self._compared(found) | {"seconds": seconds}
        good = process.returncode == 0 and not values["errors"]
        case: Case = {"event": "rolling restart", "failover": True}
        details = {"workers": orjson.loads(output) if process.returncode == 0 else output.decode()}
        self._note(Run(case=case, outcome="passed" if good else "failed", values=values, details=details))

    async def _unbroken(self, made: Sequence[Stream]) -> list[Stream]:
        return await asyncio.gather(*(stream.again().run(self._session) for stream in made))

    async def _broken_by(self, made: Sequence[Stream], happen: Happen, after: int) -> list[Stream]:
        """Run streams, let something happen once they have brought some events, and return them at their end.

        Args:
            made: the streams.
            happen: is called once.
            after: how many events; see `have_brought`.
        """
        running = [stream.again() for stream in made]
        tasks = [asyncio.create_task(stream.run(self._session)) for stream in running]
        await wait_until(lambda: have_brought(running, after), "streams run", within=_WITHIN)
        await happen()
        await asyncio.gather(*tasks)
        return running

    def _compared(self, found: Sequence[Stream]) -> dict[str, int | float]:
        """Return what clients noticed, beside the unbroken streams of the same requests, in the same order."""
        right = self._right * (len(found) // len(self._right))
        whole = [(f, r) for f, r in zip(found, right, strict=True) if f.error is None]
        return {
            "streams": len(found),
            "errors": len(found) - len(whole),
            "differ": sum(not f.same_as(r) for f, r in whole),
            "silence_median": statistics.median(stream.silence for stream in found),
            "silence_most": max(stream.silence for stream in found),
        }

    async def _whole(self) -> None:
        await wait_until(self._client.is_whole, "every worker serves", within=_WITHIN)

    async def _in_flight(self) -> int:
        async with self._client.session.get(f"{self._client.router}/tasks") as reply:
            workers = (await reply.json())["tasks"][TASKS[0]]["decode"]["workers"]
        return int(next(worker["in_flight"] for worker in workers if worker["name"] == DECODERS[0]))

    async def _replays(self) -> tuple[float, float]:
        """Return the replays and the replayed tokens so far."""
        async with self._client.session.get(f"{self._client.router}/metrics") as reply:
            families = list(text_string_to_metric_families(await reply.text()))
        samples = [sample for family in families for sample in family.samples]
        names = ("sun_replays_total", "sun_replayed_tokens_total")
        replays, tokens = (sum(s.value for s in samples if s.name == name) for name in names)
        return replays, tokens

    async def _post(self, path: str, body: dict[str, bool]) -> None:
        async with self._client.session.post(self._client.router + path, json=body) as reply:
            reply.raise_for_status()


def _without_failover(stream: Stream) -> Stream:
    return Stream(stream.path, stream.body | {"model": f"{stream.body['model']}-off"})


if __name__ == "__main__":
    typer.run(main)
