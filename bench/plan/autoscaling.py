"""The policy of a decode pool that sizes itself, against static pools and two other policies, in virtual time.

    python -m sun_sglang.bench.plan.autoscaling TRACES
    python -m sun_sglang.bench.plan.autoscaling TRACES --copies 1 --boots 60

TRACES is a folder with the Azure LLM inference traces of 2023 (`bench/load/traces/published.py`). Each record is played
`--copies` times, each copy moved by up to 30 s. The synthetic loads are seeded: bursts of three times the rate, and a
day of one sine. Four tasks (Zipf 1) share the decode pool; prefill workers are plenty. Costs: Llama 3.1 8B on an A100;
objective: 25 ms a token. The settings of the policies are their defaults, and were not chosen on these loads.

Writes the GPU-hours of the decode pool and the share of requests within the objective.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from sun_sglang.autoscaling.policy import Autoscaler, Bounds
from sun_sglang.autoscaling.sizing import Target
from sun_sglang.autoscaling.step_cost import StepCost, step_cost
from sun_sglang.bench.load.traces.azure import parse_azure
from sun_sglang.bench.load.traces.trace import TraceRecord
from sun_sglang.bench.load.workload.lengths import parse_length
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.bench.plan.rivals import HorizontalPodAutoscaler, Static, ThroughputPlanner
from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.plan.autoscale import OfferedLoadPolicy, SizingPolicy, play_autoscaled
from sun_sglang.plan.outcome import Objectives, Outcome
from sun_sglang.plan.system import PlannedPool, System, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import CostModel, load_costs

NAME: Final = "plan_autoscaling"
COSTS: Final = Path("configs/costs/llama-3.1-8b-a100.yaml")
TRACES: Final = {"code": "AzureLLMInferenceTrace_code.csv", "conversation": "AzureLLMInferenceTrace_conv.csv"}
UNITS: Final = {
    "gpu_hours": "GPU-hours",
    "within_slo": "%",
    "least_workers": "1",
    "most_workers": "1",
    "starts": "1",
    "tpot_p50_ms": "ms",
    "tpot_p99_ms": "ms",
    "ttft_p99_ms": "ms",
    "requests": "1",
}
TASKS: Final = 4
TPOT: Final = 0.025
_JITTER = 30.0


def main(
    traces: Annotated[Path, typer.Argument(help="A folder with the Azure traces of 2023.")],
    copies: Annotated[int, typer.Option(min=1, help="How often each record of a trace is played.")] = 8,
    boots: Annotated[str, typer.Option(help="Seconds of a boot, with commas.")] = "60,180",
    day: Annotated[float, typer.Option(help="Seconds of the synthetic day.")] = 14_400.0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Run every policy on every load, print the results and write the report."""
    runs, console, costs = list[Run](), Console(highlight=False), load_costs(COSTS)
    for name, arrivals in loads(traces, copies, day).items():
        for boot in map(float, boots.split(",")):
            for run in compare(name, arrivals, costs, boot, first=boot == float(boots.split(",", 1)[0])):
                runs.append(run)
                case = " ".join(f"{key}={value}" for key, value in run.case.items())
                console.print(case, *(f"{key}={value:g}" for key, value in run.values.items()), soft_wrap=True)
    command = f"python -m sun_sglang.bench.plan.autoscaling TRACES --copies {copies} --boots {boots} --day {day:g}"
    settings = {"copies": copies, "tpot": TPOT, "costs": COSTS.name, "day": day, "tasks": TASKS}
    write_report(new_report(NAME, command, runs, UNITS, seeds=(0,), settings=settings), out)


def loads(traces: Path, copies: int, day: float) -> dict[str, Sequence[Arrival]]:
    """Return the loads by name."""
    found: dict[str, Sequence[Arrival]] = {}
    for name, file in TRACES.items():
        path = traces / file
        found[f"azure-{name}"] = _copied(parse_azure(path, path.read_bytes()).records, copies)
    rate = 20.0
    found["bursts"] = list(_synthetic(_bursts(rate, 3600.0), 3 * rate, 3600.0))
    found["day"] = list(_synthetic(lambda now: rate * (1 - 0.8 * math.cos(2 * math.pi * now / day)), 1.8 * rate, day))
    return found


def _copied(records: Sequence[TraceRecord], copies: int) -> list[Arrival]:
    draw, popularity = random.Random(0), Popularity(TASKS, 1.0)
    arrivals = []
    for record in records:
        for copy in range(copies):
            at = max(0.0, record.at + (draw.uniform(-_JITTER, _JITTER) if copy else 0.0))
            task = popularity.task(draw.random(), 0.0)
            arrivals.append(Arrival(at, task, record.input_tokens, record.output_tokens))
    return sorted(arrivals)


def _bursts(rate: float, seconds: float) -> Callable[[float], float]:
    """Return a rate with bursts of three times the rate: one in ten minutes on average, of one to five minutes."""
    draw, now, bursts = random.Random(1), 0.0, []
    while (now := now + draw.expovariate(1 / 600)) < seconds:
        length = draw.uniform(60, 300)
        bursts.append((now, now + length))
        now += length
    return lambda at: 3 * rate if any(begin <= at < end for begin, end in bursts) else rate


def _synthetic(rate: Callable[[float], float], most: float, seconds: float) -> Iterator[Arrival]:
    """Yield requests of a varying rate, by thinning; lengths as those of conversations."""
    draw, popularity, now = random.Random(2), Popularity(TASKS, 1.0), 0.0
    isl, osl = parse_length("lognormal:800:0.9:8000"), parse_length("lognormal:180:0.7:1500")
    while (now := now + draw.expovariate(most)) < seconds:
        if draw.random() * most < rate(now):
            yield Arrival(now, popularity.task(draw.random(), now), isl.sample(draw), osl.sample(draw))


def compare(load: str, arrivals: Sequence[Arrival], costs: CostModel, boot: float, *, first: bool) -> Iterator[Run]:
    """Yield the run of each policy on one load; static pools, for which a boot means nothing, where `first`."""
    seconds = arrivals[-1].at
    cost = step_cost(costs)
    most = 2 * _peak_need(arrivals, cost) + 2
    prefill = 2 + math.ceil(2.5 * sum(costs.prefill_seconds([a.prompt]) for a in arrivals) / seconds)
    pools = PlannedPool("prefill", prefill, costs), PlannedPool("decode", most, costs)
    tasks = [f"t{i}" for i in range(TASKS)]
    system = arranged("sun", tasks, *pools, shares=frozenset({"prefill", "decode"}))
    mean = _mean_need(arrivals, cost)
    start = max(1, math.ceil(mean))
    if first:
        for workers in range(start, math.ceil(1.5 * mean) + 2):
            yield _run(load, f"static-{workers}", system, arrivals, Static(), 0.0, workers)
    for name, policy in _policies(arrivals, cost, most).items():
        yield _run(load, name, system, arrivals, policy, boot, start)


def _policies(arrivals: Sequence[Arrival], cost: StepCost, most: int) -> Mapping[str, SizingPolicy]:
    tokens = sum(a.answer for a in arrivals)
    context = sum(a.answer * (a.prompt + a.answer / 2) for a in arrivals) / tokens
    # its operator would know the batch that makes 85 % of the objective: the best that HPA can be given
    target = (0.85 * TPOT - cost.base) / (cost.per_request + cost.per_context_token * context)
    return {
        "offered-load": OfferedLoadPolicy(Autoscaler(Bounds(1, most, Target(TPOT))), cost),
        "hpa": HorizontalPodAutoscaler(1, most, target),
        "throughput-planner": ThroughputPlanner(1, most, TPOT, cost),
    }


def _run(
    load: str,
    name: str,
    system: System,
    arrivals: Sequence[Arrival],
    policy: SizingPolicy,
    boot: float,
    initial: int,
) -> Run:
    outcome = Outcome(Objectives(inter_token_latency=TPOT), begin=120.0)
    seconds = arrivals[-1].at
    time = play_autoscaled(system, arrivals, outcome, policy, boot=boot, initial=initial, seconds=seconds)
    values = {
        "gpu_hours": time.gpu_hours,
        "within_slo": 100 * outcome.all.ratio,
        "least_workers": time.least,
        "most_workers": time.most,
        "starts": time.starts,
        "tpot_p50_ms": 1000 * outcome.tpot.percentile(50),
        "tpot_p99_ms": 1000 * outcome.tpot.percentile(99),
        "ttft_p99_ms": 1000 * outcome.ttft.percentile(99),
        "requests": outcome.all.requests,
    }
    case: dict[str, str | int | float | bool] = {"load": load, "policy": name, "boot": boot}
    return Run(case=case, seed=0, values={key: round(value, 3) for key, value in values.items()})


def _work(arrival: Arrival, cost: StepCost) -> float:
    """Return the seconds of a worker that the steps of an answer take beyond the empty batch's, at the objective."""
    context = arrival.answer * (arrival.prompt + arrival.answer / 2)
    return (cost.per_request * arrival.answer + cost.per_context_token * context) / (1 - cost.base / TPOT)


def _mean_need(arrivals: Sequence[Arrival], cost: StepCost) -> float:
    return sum(_work(a, cost) for a in arrivals) / arrivals[-1].at


def _peak_need(arrivals: Sequence[Arrival], cost: StepCost) -> int:
    """Return the workers that the busiest minute needs."""
    minutes: dict[int, float] = {}
    for a in arrivals:
        minutes[int(a.at // 60)] = minutes.get(int(a.at // 60), 0.0) + _work(a, cost) / 60
    return math.ceil(max(minutes.values()))


if __name__ == "__main__":
    typer.run(main)
