"""The simulator against the SUN paper: figure 3 (interactivity) and table 4 (steps and throughput).

    python -m sun_sglang.bench.plan.papers

Figure 3, OSL 256, uniform: four tasks with a prefill worker each share K = 4 to 1 decode workers. The paper does not
state its ISL there; 512 and 1024 are both simulated. The rate is that which makes the paper's 935 tokens a second for
each of four decode workers. Table 4: one prefill and one decode worker at 1, 4 and 16 requests in flight.

Step times are those of the fitted cost file, and those of AIConfigurator with one factor for decode steps and one for
prefill, from one point of table 4 (ISL 2048, concurrency 4; prefill: concurrency 1).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.plan.calibrate import MeasuredPoint, calibrated
from sun_sglang.plan.outcome import Objectives, Outcome
from sun_sglang.plan.simulator import Request, Simulator
from sun_sglang.plan.step_times import fit_costs
from sun_sglang.plan.system import PlannedPool, System, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import CostModel, load_costs

NAME: Final = "plan_papers"
COSTS: Final = Path("configs/costs/llama-3.1-8b-a100.yaml")
INT4: Final = Path("configs/costs/llama-3.1-8b-a100-int4.yaml")
UNITS: Final = {
    "interactivity": "%",
    "paper": "%",
    "difference": "points",
    "tokens_per_s_per_worker": "tokens/s",
    "tpot_ms": "ms",
    "paper_tpot_ms": "ms",
    "tokens_per_s": "tokens/s",
    "paper_tokens_per_s": "tokens/s",
    "tpot_error": "%",
    "throughput_error": "%",
}
INTERACTIVITY: Final = {3: -7.0, 2: -19.0, 1: -48.0}
"""Change of 1/TPOT against four isolated decode workers, in percent, by shared decode workers (section 4.3)."""
TABLE_4: Final = {
    "llama-3.1-8b": {
        (1024, 1): (13.8, 73.3),
        (1024, 4): (15.1, 265.3),
        (1024, 16): (17.7, 908.1),
        (2048, 1): (15.1, 66.3),
        (2048, 4): (15.6, 253.9),
        (2048, 16): (19.5, 824.0),
        (4096, 1): (14.9, 66.9),
        (4096, 4): (16.9, 230.0),
        (4096, 16): (24.6, 641.1),
    },
    "llama-3.1-8b-int4": {
        (1024, 1): (7.6, 130.2),
        (1024, 4): (8.6, 456.2),
        (1024, 16): (11.3, 1400.9),
        (2048, 1): (7.9, 124.3),
        (2048, 4): (9.3, 405.5),
        (2048, 16): (13.2, 1192.1),
        (4096, 1): (7.9, 121.2),
        (4096, 4): (10.1, 362.3),
        (4096, 16): (17.8, 876.3),
    },
    "qwen3-8b": {
        (1024, 1): (12.2, 81.3),
        (1024, 4): (13.0, 304.5),
        (1024, 16): (15.2, 1040.2),
        (2048, 1): (12.4, 79.5),
        (2048, 4): (13.5, 288.3),
        (2048, 16): (16.9, 934.6),
        (4096, 1): (12.5, 77.7),
        (4096, 4): (14.4, 265.5),
        (4096, 16): (21.8, 708.7),
    },
}
"""TPOT in ms and output tokens a second, by ISL and concurrency, at OSL 1024; rows Full-FT 16/16 and QSUN 16/4."""
_TTFT_MS: Final = {"llama-3.1-8b": 176.5, "qwen3-8b": 166.0}
_MODELS: Final = {"llama-3.1-8b": "meta-llama/Llama-3.1-8B", "qwen3-8b": "Qwen/Qwen3-8B"}
_RATE: Final = 4 * 935 / 256
_POINT: Final = (2048, 4)
OSL: Final = 1024


def main(
    seconds: Annotated[float, typer.Option(min=10, help="Virtual seconds that are measured.")] = 600.0,
    out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json",
) -> None:
    """Simulate every case, print it beside the paper's and write the report."""
    runs, console = list[Run](), Console(highlight=False)
    for (source, costs), isl in itertools.product(figure_3_costs().items(), (512, 1024)):
        runs += figure_3(source, costs, isl, seconds)
    for source, model, costs, decode in table_4_costs():
        runs += table_4(source, model, costs, decode)
    for run in runs:
        case = " ".join(f"{key}={value}" for key, value in run.case.items())
        console.print(case, *(f"{key}={value:.4g}" for key, value in run.values.items()), soft_wrap=True)
    settings = {"seconds": seconds, "osl_figure_3": 256, "rate_figure_3": _RATE, "osl_table_4": OSL}
    command = f"python -m sun_sglang.bench.plan.papers --seconds {seconds:g}"
    write_report(new_report(NAME, command, runs, UNITS, seeds=(0,), settings=settings), out)


def figure_3_costs() -> dict[str, CostModel]:
    """Return the cost models of figure 3 by source."""
    return {"fitted": load_costs(COSTS), "aiconfigurator": one_point("llama-3.1-8b")}


def one_point(model: str) -> CostModel:
    """Return AIConfigurator's cost model of a model on an A100, corrected by one point of table 4."""
    tpot, tokens = TABLE_4[model][_POINT]
    isl, concurrency = _POINT
    # by Little's law, the requests that are in the batch and not in prefill
    batch = tokens * tpot / 1000
    assert batch <= concurrency
    point = MeasuredPoint("table 4", tpot / 1000, batch, isl + OSL / 2, _TTFT_MS[model] / 1000, isl)
    return calibrated(fit_costs("a100", _MODELS[model]).costs, point).costs


def figure_3(source: str, costs: CostModel, isl: int, seconds: float) -> Iterator[Run]:
    """Yield the runs of one cost model and one ISL."""
    tasks = ["a", "b", "c", "d"]
    pool = PlannedPool("prefill", 1, costs), PlannedPool("decode", 1, costs)
    isolated = _tpot(arranged("isolated", tasks, *pool, shares=frozenset()), isl, seconds)
    for workers, paper in INTERACTIVITY.items():
        shared = arranged("sun", tasks, *pool, shares=frozenset({"decode"})).resized({"decode-shared": workers})
        tpot = _tpot(shared, isl, seconds)
        change = 100 * (isolated / tpot - 1)
        values = {
            "interactivity": change,
            "paper": paper,
            "difference": change - paper,
            "tpot_ms": 1000 * tpot,
            "tokens_per_s_per_worker": _RATE * 256 / workers,
        }
        yield Run(case={"figure": 3, "costs": source, "isl": isl, "decode_workers": workers}, values=values)


def _tpot(system: System, isl: int, seconds: float) -> float:
    outcome = Outcome(Objectives(), begin=60.0)
    Simulator(system, outcome).run(_uniform(isl, seconds + 60.0))
    return outcome.tpot.mean


def _uniform(isl: int, seconds: float) -> Iterator[Arrival]:
    draw, now = random.Random(0), 0.0
    while (now := now + draw.expovariate(_RATE)) < seconds:
        yield Arrival(now, draw.randrange(4), isl, 256)


def table_4_costs() -> Iterator[tuple[str, str, CostModel, CostModel]]:
    """Yield the source, the row of the paper, and the costs of prefill and decode."""
    fitted = load_costs(COSTS)
    yield "fitted", "llama-3.1-8b", fitted, fitted
    yield "fitted", "llama-3.1-8b-int4", fitted, load_costs(INT4)
    for model in _MODELS:
        costs = one_point(model)
        yield "aiconfigurator", model, costs, costs


class _ClosedLoop:
    """Sends a request whenever one has ended.

    Args:
        isl: tokens of a prompt.
        concurrency: requests in flight.
        requests: how many in all.
    """

    def __init__(self, isl: int, concurrency: int, requests: int) -> None:
        self.ended: list[Request] = []
        self._isl = isl
        self._left = requests
        self._sent = itertools.count()
        self._concurrency = concurrency
        self._simulator: Simulator | None = None

    def run(self, system: System) -> None:
        """Play the whole load."""
        self._simulator = Simulator(system, self)
        for _ in range(self._concurrency):
            self._send(self._simulator.now)
        self._simulator.advance(float("inf"))

    def note(self, request: Request) -> None:
        """See `Recorder`."""
        self.ended.append(request)
        assert self._simulator is not None
        if self._left:
            self._simulator.call_at(request.ended, self._send)

    def _send(self, now: float) -> None:
        assert self._simulator is not None
        if self._left:
            self._left -= 1
            self._simulator.send(next(self._sent), Arrival(now, 0, self._isl, OSL))


def table_4(source: str, model: str, costs: CostModel, decode: CostModel) -> Iterator[Run]:
    """Yield the run of each ISL and concurrency."""
    pools = PlannedPool("prefill", 1, costs), PlannedPool("decode", 1, decode)
    system = arranged("one", ["task"], *pools, shares=frozenset())
    for (isl, concurrency), (paper_tpot, paper_tokens) in TABLE_4[model].items():
        loop = _ClosedLoop(isl, concurrency, 12 * concurrency)
        loop.run(system)
        # neither the first requests, which begin together, nor the last, which end alone
        kept = loop.ended[2 * concurrency : -concurrency]
        tpot = 1000 * sum(r.ended - r.first for r in kept) / sum(OSL - 1 for _ in kept)
        seconds = kept[-1].ended - loop.ended[2 * concurrency - 1].ended
        tokens = OSL * len(kept) / seconds
        values = {
            "tpot_ms": tpot,
            "paper_tpot_ms": paper_tpot,
            "tpot_error": 100 * (tpot / paper_tpot - 1),
            "tokens_per_s": tokens,
            "paper_tokens_per_s": paper_tokens,
            "throughput_error": 100 * (tokens / paper_tokens - 1),
        }
        case: dict[str, str | int | float | bool] = {"table": 4, "costs": source, "model": model, "isl": isl}
        yield Run(case={**case, "concurrency": concurrency}, values=values)


if __name__ == "__main__":
    typer.run(main)
