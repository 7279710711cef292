"""Soak test: mixed traffic for minutes over emulated workers that are killed, stopped and made to fail at random.

    python -m sun_sglang.bench.router.soak --minutes 20

Runs `sun launch` over emulated workers and checks that every request has exactly one outcome, that the router counted
the same outcomes (except for clients that left before it received their request), that every answer has the right
tokens, that nothing is left in flight and that the router's memory does not grow. Prints the report; exits with 1 if a
check fails.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from pydantic import JsonValue
from rich.console import Console

from sun_sglang.bench.report import Report, Run, new_report, write_report
from sun_sglang.bench.router.soak_deployment import REQUEST_TIMEOUT, TASKS, VOCAB, SoakDeployment, launched
from sun_sglang.bench.router.soak_faults import FaultSource
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens

# MiB that the process may grow by between the second quarter and the last: pools of memory that fill are no leak
_MAX_GROWTH = 8.0
# seconds of a run below which growth is not judged: memory for the first requests is no leak
_GROWTH_JUDGED_FROM = 300.0
_UNITS = {"requests": "1", "left_before_the_router_read": "1"}


@dataclass
class SoakCounts:
    """Counts of one soak.

    Attributes:
        outcomes: requests by outcome, as the client received them.
        faults: faults that were injected, by kind.
        problems: violated checks, as sentences.
        memory: the router's memory in MiB, sampled each second.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def main(
    minutes: Annotated[float, typer.Option(min=0.01)] = 20.0,
    clients: Annotated[int, typer.Option(min=1, help="Concurrent requests.")] = 16,
    pause: Annotated[float, typer.Option(min=0.05, help="Mean seconds between two faults.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Seed of the traffic and of the faults.")] = 0,
    failover: Annotated[bool, typer.Option(help="Answers go on when their decode worker is lost.")] = True,
    out: Annotated[Path | None, typer.Option(help="The report; left out, none is written.")] = None,
) -> None:
    """Run the soak test and print its report."""
    report = run_soak(minutes * 60, clients, pause, seed, failover=failover)
    Console().print(report.runs[0])
    if out is not None:
        write_report(report, out)
    if not report.passed:
        raise typer.Exit(1)


def run_soak(seconds: float, clients: int, pause: float, seed: int, *, failover: bool = True) -> Report:
    """Run one soak test and return its report, whose one run passed or failed.

    Args:
        seconds: duration of the traffic.
        clients: concurrent requests.
        pause: mean seconds between two faults.
        seed: seed of the traffic and of the faults.
        failover: whether answers go on when their decode worker is lost.
    """
    with tempfile.TemporaryDirectory() as folder, launched(Path(folder), failover=failover) as deployment:
        counts, counted = asyncio.run(Soak(deployment, clients, pause, random.Random(seed)).run(seconds))
    problems = counts.problems + find_problems(counts, counted, seconds)
    sent = sum(counts.outcomes.values())
    details: dict[str, JsonValue] = {
        "client_outcomes": dict(sorted(counts.outcomes.items())),
        "router_outcomes": dict(sorted(counted.items())),
        "faults": dict(sorted(counts.faults.items())),
        "router_mib_by_quarter": list(_quarters(counts.memory)),
    }
    run = Run(
        seed=seed,
        outcome="failed" if problems else "passed",
        message="\n".join(problems),
        values={"requests": sent, "left_before_the_router_read": sent - sum(counted.values())},
        details=details,
    )
    command = f"python -m sun_sglang.bench.router.soak --minutes {seconds / 60:g} --clients {clients} --seed {seed}"
    command += "" if failover else " --no-failover"
    settings: dict[str, JsonValue] = {"seconds": seconds, "clients": clients, "pause": pause, "failover": failover}
    return new_report("router_soak", command, [run], _UNITS, seeds=[seed], settings=settings)


def find_problems(counts: SoakCounts, counted: dict[str, int], seconds: float) -> list[str]:
    """Return the violated checks, as sentences.

    Args:
        counts: the client's counts.
        counted: requests by outcome, as the router counted them.
        seconds: duration of the traffic.
    """
    problems = []
    sent, seen = sum(counts.outcomes.values()), sum(counted.values())
    # a client that leaves at once may be gone before the router has read its request, or even before it was sent
    if not 0 <= sent - seen <= counts.outcomes["left"]:
        problems.append(f"{sent} requests were sent and the router counted {seen}")
    if (ok := counts.outcomes["ok"]) > counted.get("ok", 0):
        problems.append(f"{ok} answers came and the router counted {counted.get('ok', 0)}")
    if not ok:
        problems.append("not one request was answered")
    quarters = _quarters(counts.memory)
    if seconds >= _GROWTH_JUDGED_FROM and quarters and quarters[-1] - quarters[1] > _MAX_GROWTH:
        problems.append(f"the router grew from {quarters[1]:.1f} to {quarters[-1]:.1f} MiB")
    return problems


class Soak:
    """Traffic and faults over one deployment.

    Args:
        deployment: the deployment.
        clients: concurrent requests.
        pause: mean seconds between two faults.
        rng: source of randomness.
    """

    def __init__(self, deployment: SoakDeployment, clients: int, pause: float, rng: random.Random) -> None:
        self._deployment = deployment
        self._clients = clients
        self._rng = rng
        self._faults = FaultSource(deployment, pause, rng)
        self._counts = SoakCounts(faults=self._faults.injected)
        self._ending = False
        self._weights: dict[str, str] = {}

    async def run(self, seconds: float) -> tuple[SoakCounts, dict[str, int]]:
        """Run for some seconds, wait until the deployment is idle, and return both sides' counts."""
        async with self._deployment.client() as client:
            await self._deployment.wait_ready(client)
            self._weights = await self._deployment.weights(client)
            sending = [asyncio.create_task(self._send_requests(client)) for _ in range(self._clients)]
            beside = [asyncio.create_task(self._faults.run(client)), asyncio.create_task(self._sample_memory())]
            await asyncio.sleep(seconds)
            self._ending = True
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await asyncio.gather(*sending)
            self._faults.continue_all()
            await self._deployment.wait_recovered(client)
            for name in TASKS:
                outcome = await self._send(client, name, stream=False, leave_after=None)
                self._counts.outcomes[outcome] += 1
                if outcome != "ok":
                    self._counts.problems.append(f"task {name} ended with `{outcome}` after every worker recovered")
            self._counts.problems += await self._deployment.wait_idle(client)
            return self._counts, await self._deployment.counted_outcomes(client)

    async def _send_requests(self, client: aiohttp.ClientSession) -> None:
        while not self._ending:
            leaves = self._rng.random() < 0.1
            outcome = await self._send(
                client,
                self._rng.choice(TASKS),
                stream=self._rng.random() < 0.5,
                leave_after=self._rng.uniform(0.03, 0.3) if leaves else None,
            )
            self._counts.outcomes[outcome] += 1
            if outcome.startswith("wrong"):
                self._counts.problems.append(outcome)

    async def _send(self, client: aiohttp.ClientSession, task: str, *, stream: bool, leave_after: float | None) -> str:
        """Send one request and return its outcome; an outcome that begins with `wrong` violates a check.

        Args:
            client: the router's client.
            task: name of the task.
            stream: stream the answer.
            leave_after: seconds after which the client disconnects; None waits for the answer.
        """
        prompt = [self._rng.randrange(VOCAB) for _ in range(self._rng.choice((4, 40, 400)))]
        count = self._rng.choice((1, 8, 40))
        body = {"model": task, "input_ids": prompt, "sampling_params": {"max_new_tokens": count}, "stream": stream}
        right = expected_tokens(self._weights[task], prompt, count, VOCAB)
        try:
            async with asyncio.timeout(leave_after), client.post("/generate", json=body) as reply:
                raw = await reply.read()
                if stream and reply.status == 200:
                    return _judge_stream(raw, right)
                return _judge_whole(reply.status, raw, right)
        except TimeoutError:
            return "left" if leave_after is not None else f"wrong: no end within {REQUEST_TIMEOUT:g} s"
        except aiohttp.ClientError as e:
            return f"wrong: the connection broke ({type(e).__name__})"

    async def _sample_memory(self) -> None:
        while True:
            self._counts.memory.append(self._deployment.router_memory())
            await asyncio.sleep(1.0)


def _judge_stream(raw: bytes, right: Sequence[int]) -> str:
    events = [e.removeprefix(b"data: ") for e in raw.split(b"\n\n") if e]
    if not events:
        return "wrong: an empty stream"
    if events[-1] == b"[DONE]":
        last = json.loads(events[-2])
        return "ok" if last["output_ids"] == right else "wrong: other tokens in a stream"
    return "error event" if "error" in json.loads(events[-1]) else "wrong: a stream without an end"


def _judge_whole(status: int, raw: bytes, right: Sequence[int]) -> str:
    reply = json.loads(raw)
    if status == 200:
        return "ok" if reply["output_ids"] == right else "wrong: other tokens in an answer"
    if status in (429, 502, 503, 504) and reply["error"]["message"]:
        return str(status)
    return f"wrong: {status} {raw[:200]!r}"


def _quarters(memory: Sequence[float]) -> list[float]:
    """Return the medians of the four quarters of a series; none for fewer than four values."""
    size = len(memory) // 4
    return [round(statistics.median(memory[i * size : (i + 1) * size]), 1) for i in range(4)] if size else []


if __name__ == "__main__":
    typer.run(main)
