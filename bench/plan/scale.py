"""A thousand tasks on a thousand GPUs at 1,000 requests a second: does the simulator outrun the clock on one core?

    python -m sun_sglang.bench.plan.scale
    python -m sun_sglang.bench.plan.scale --seconds 86400

All tasks share 150 prefill and 850 decode workers (an A100 each, Llama 3.1 8B), the most that the router chooses among;
Zipf 1; prompts of 512 tokens and answers of 256 in the median, log-normal. Requests are made as they arrive, and
latencies are kept as counts, so that memory does not grow with time.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from sun_sglang.bench.load.workload.lengths import parse_length
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.plan.outcome import Objectives, Outcome
from sun_sglang.plan.simulator import Simulator
from sun_sglang.plan.system import PlannedPool, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import load_costs

NAME: Final = "plan_scale"
COSTS: Final = Path("configs/costs/llama-3.1-8b-a100.yaml")
TASKS, RATE, PREFILL, DECODE, ZIPF = 1000, 1000.0, 150, 850, 1.0
ISL, OSL = "lognormal:512:0.7:8192", "lognormal:256:0.7:4096"
UNITS: Final = {
    "virtual_s": "s",
    "cpu_s": "s",
    "speed": "1",
    "cpu_us_per_request": "us",
    "requests": "1",
    "events_per_request": "1",
    "memory_start_mib": "MiB",
    "memory_end_mib": "MiB",
    "ttft_p99_ms": "ms",
    "tpot_p50_ms": "ms",
    "tpot_p99_ms": "ms",
}


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Virtual seconds.")] = 1800.0,
    seed: Annotated[int, typer.Option(help="Of the load.")] = 0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Simulate the load and write the report."""
    costs = load_costs(COSTS)
    pools = PlannedPool("prefill", PREFILL, costs), PlannedPool("decode", DECODE, costs)
    tasks = [f"t{i:03d}" for i in range(TASKS)]
    system = arranged("shared", tasks, *pools, shares=frozenset({"prefill", "decode"}))
    outcome = Outcome(Objectives(time_to_first_token=0.5, inter_token_latency=0.020))
    simulator = Simulator(system, outcome, seed=seed)
    before, begun = _memory_mib(), time.process_time()
    simulator.run(_arrivals(seconds, seed))
    cpu = time.process_time() - begun
    values = {
        "virtual_s": seconds,
        "cpu_s": cpu,
        "speed": seconds / cpu,
        "cpu_us_per_request": 1e6 * cpu / outcome.all.requests,
        "requests": outcome.all.requests,
        "events_per_request": simulator.events / outcome.all.requests,
        "memory_start_mib": before,
        "memory_end_mib": _memory_mib(),
        "ttft_p99_ms": 1000 * outcome.ttft.percentile(99),
        "tpot_p50_ms": 1000 * outcome.tpot.percentile(50),
        "tpot_p99_ms": 1000 * outcome.tpot.percentile(99),
    }
    Console(highlight=False).print(*(f"{key}={value:.5g}" for key, value in values.items()))
    settings = {"tasks": TASKS, "rate": RATE, "prefill_workers": PREFILL, "decode_workers": DECODE, "zipf": ZIPF}
    command = f"python -m sun_sglang.bench.plan.scale --seconds {seconds:g}"
    run = Run(case={"seconds": seconds}, seed=seed, values={k: round(v, 4) for k, v in values.items()})
    write_report(new_report(NAME, command, [run], UNITS, settings={**settings, "isl": ISL, "osl": OSL}), out)


def _arrivals(seconds: float, seed: int) -> Iterator[Arrival]:
    draw, popularity, now = random.Random(seed), Popularity(TASKS, ZIPF), 0.0
    isl, osl = parse_length(ISL), parse_length(OSL)
    while (now := now + draw.expovariate(RATE)) < seconds:
        yield Arrival(now, popularity.task(draw.random(), now), isl.sample(draw), osl.sample(draw))


def _memory_mib() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
