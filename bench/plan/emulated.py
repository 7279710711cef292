"""The simulator against emulated workers in real time, behind the real router, under the same requests.

    python -m sun_sglang.bench.plan.emulated
    python -m sun_sglang.bench.plan.emulated --decode 2 --rates 2,3 --seconds 60 --warmup 20 --out x.json

`sun bench` sends requests of log-normal lengths to four tasks (Zipf 1), each with a prefill worker of its own, which
share the decode workers. The simulator plays the plan of the same settings and seed. Both count the requests that are
completed in the window. Costs are five times those of Llama 3.1 8B on an A100, so that two cores have time for the
router, the workers and the client: what is compared is the queueing and the batching, and not the machine.

Writes both to `bench/results/plan_emulated.json`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console

from sun_sglang.bench.adapters.deployment import require_sun
from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.load.workload.build import build as build_workload
from sun_sglang.bench.load.workload.planned import Plan
from sun_sglang.bench.load.workload.settings import workload_settings
from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.bench.serving.result import BenchResult, read_result
from sun_sglang.plan.digest import Digest
from sun_sglang.plan.outcome import inter_token_latency
from sun_sglang.plan.simulator import Request, simulate
from sun_sglang.plan.system import PlannedPool, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import CostModel, load_costs

NAME: Final = "plan_emulated"
COSTS: Final = Path("configs/costs/llama-3.1-8b-a100.yaml")
SLOWER: Final = 5.0
TASKS: Final = ("math", "code", "tool", "chat")
LOAD: Final[Mapping[str, Any]] = {"zipf": 1.0, "isl": "lognormal:700:0.6:4000", "osl": "lognormal:150:0.5:800"}
UNITS: Final = {
    "tokens_per_s": "tokens/s",
    "requests": "1",
    "ttft_p50_ms": "ms",
    "ttft_p99_ms": "ms",
    "tpot_p50_ms": "ms",
    "tpot_p99_ms": "ms",
    "client_lag_p99_ms": "ms",
    "tokens_per_s_error": "%",
    "ttft_p50_error": "%",
    "ttft_p99_error": "%",
    "tpot_p50_error": "%",
    "tpot_p99_error": "%",
}


class _Window:
    """Counts the requests that are completed in a window, as `sun bench` does.

    Args:
        begin: its start, in seconds.
        end: its end.
    """

    def __init__(self, begin: float, end: float) -> None:
        self.ttft, self.tpot = Digest(), Digest()
        self.tokens = 0
        self._begin = begin
        self._end = end

    def note(self, request: Request) -> None:
        """See `Recorder`."""
        if not request.failure and self._begin <= request.ended < self._end:
            self.tokens += request.arrival.answer
            self.ttft.add(request.first - request.arrival.at)
            if request.arrival.answer > 1:
                self.tpot.add(inter_token_latency(request))


def main(
    decode: Annotated[int, typer.Option(min=1, help="Decode workers.")] = 2,
    rates: Annotated[str, typer.Option(help="Requests a second, with commas.")] = "1.5,2.5",
    seconds: Annotated[float, typer.Option(min=1, help="Length of the window.")] = 120.0,
    warmup: Annotated[float, typer.Option(min=0)] = 40.0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Measure and simulate each rate, print both and write the report."""
    runs, console, costs = list[Run](), Console(highlight=False), load_costs(COSTS).slowed(SLOWER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "costs.yaml").write_text(yaml.safe_dump(costs.model_dump()))
        (folder / "sun.yaml").write_text(yaml.safe_dump(topology(decode), sort_keys=False))
        require_sun("launch", str(folder / "sun.yaml"), "--detach", "--run-dir", str(folder / "run"))
        try:
            for number, rate in enumerate(map(float, rates.split(","))):
                real = _measured(folder, rate, seconds, warmup, prompt_seed=number)
                virtual = simulated(costs, decode, rate, seconds, warmup)
                errors = {
                    f"{key.removesuffix('_ms')}_error": 100 * (virtual[key] / real[key] - 1)
                    for key in ("tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")
                }
                for clock, values in (("real", real), ("virtual", virtual | errors)):
                    case: dict[str, str | int | float | bool] = {"clock": clock, "rate": rate, "decode_workers": decode}
                    runs.append(Run(case=case, seed=0, values={k: round(v, 3) for k, v in values.items()}))
                    shown = (f"{key}={value:.4g}" for key, value in values.items())
                    console.print(clock, f"rate={rate:g}", *shown, soft_wrap=True)
        finally:
            require_sun("stop", "--run-dir", str(folder / "run"), "--now")
    command = f"python -m sun_sglang.bench.plan.emulated --decode {decode} --rates {rates} --seconds {seconds:g}"
    settings = {**LOAD, "tasks": TASKS, "costs": COSTS.name, "costs_times": SLOWER}
    report = new_report(NAME, f"{command} --warmup {warmup:g}", runs, UNITS, settings=settings)
    write_report(report, out)


def topology(decode: int) -> dict[str, Any]:
    """Return the topology of the deployment, whose costs are in `costs.yaml` beside it."""
    pools: dict[str, Any] = {"base": {"role": "decode", "model": "base", "replicas": decode}}
    pools |= {task: {"role": "prefill", "model": task} for task in TASKS}
    tasks = {task: {"prefill": task, "decode": "base"} for task in TASKS}
    emulated = {"costs": "costs.yaml"}
    return {"pools": pools, "tasks": tasks, "backend": "emulated", "emulated": emulated, "router": {"port": 0}}


def simulated(costs: CostModel, decode: int, rate: float, seconds: float, warmup: float) -> dict[str, float]:
    """Return what the simulator finds for the plan of `sun bench`."""
    settings = {"tasks": TASKS, "request_rate": rate, "warmup_duration": warmup, "benchmark_duration": seconds}
    plan = build_workload(workload_settings(**LOAD, **settings))
    assert isinstance(plan, Plan)
    pools = PlannedPool("prefill", 1, costs), PlannedPool("decode", decode, costs)
    window = _Window(warmup, warmup + seconds)
    system = arranged("sun", TASKS, *pools, shares=frozenset({"decode"}))
    simulate(system, (Arrival(*plan.row(i)) for i in range(len(plan))), window)
    return {
        "tokens_per_s": window.tokens / seconds,
        "requests": window.ttft.count,
        "ttft_p50_ms": 1000 * window.ttft.percentile(50),
        "ttft_p99_ms": 1000 * window.ttft.percentile(99),
        "tpot_p50_ms": 1000 * window.tpot.percentile(50),
        "tpot_p99_ms": 1000 * window.tpot.percentile(99),
    }


def _measured(folder: Path, rate: float, seconds: float, warmup: float, *, prompt_seed: int) -> dict[str, float]:
    """Return what `sun bench` measures; with prompts of their own, so that no run hits the cache of an earlier one."""
    output = folder / f"{rate:g}.json"
    flags = {f"--{key}": str(value) for key, value in LOAD.items()}
    flags |= {"--request-rate": f"{rate:g}", "--warmup-duration": f"{warmup:g}", "--output": str(output)}
    flags |= {"--benchmark-duration": f"{seconds:g}", "--max-client-lag": "1000", "--tasks": ",".join(TASKS)}
    flags["--prompt-seed"] = str(prompt_seed)
    require_sun("bench", "--run-dir", str(folder / "run"), *(part for flag in flags.items() for part in flag))
    return _values(read_result(output))


def _values(result: BenchResult) -> dict[str, float]:
    (run,) = result.runs
    total, lag = run.total, run.client.lag
    ttft, tpot = total.time_to_first_token, total.inter_token_latency
    assert isinstance(ttft, Distribution)
    assert isinstance(tpot, Distribution)
    return {
        "tokens_per_s": total.output_token_throughput or 0.0,
        "requests": ttft.count,
        "ttft_p50_ms": ttft.p50,
        "ttft_p99_ms": ttft.p99,
        "tpot_p50_ms": tpot.p50,
        "tpot_p99_ms": tpot.p99,
        "client_lag_p99_ms": lag.p99 if lag is not None else 0.0,
    }


if __name__ == "__main__":
    typer.run(main)
