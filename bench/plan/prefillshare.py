"""The simulator against PrefillShare's figure 3: agents over one context, with a shared prefill pool and isolated.

    python -m sun_sglang.bench.plan.prefillshare

Simulates the points of stored real-time runs with emulated workers (`bench/results/serving/prefillshare_figure_3_*`,
made by `sun bench`). The paper's largest ratios: p95 latency 3.9 and 4.5 times lower, throughput 3.6 and 3.9 times
higher (ReAct, Reflexion). It takes the best concurrency limit of each system, and does not state its lengths of prompts
and answers; those of the stored runs are assumptions (`load/workload/agents/workflow.py`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.load.workload.agents.workflow import Workflow
from sun_sglang.bench.load.workload.build import build as build_workload
from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.bench.serving.result import BenchResult, PointReport, SystemPoint, read_result
from sun_sglang.contracts.scheme import Side
from sun_sglang.plan.digest import Digest
from sun_sglang.plan.simulator import Request, Simulator
from sun_sglang.plan.system import PlannedPool, System, arranged
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import CostModel, load_costs
from sun_sglang.topology import Policies, Role

NAME: Final = "plan_prefillshare"
COSTS: Final = Path("configs/costs/llama-3.1-8b-a100.yaml")
FIGURES: Final = ("react", "react_64", "react_rate_4", "reflexion", "reflexion_rate_4")
PAPER: Final = {"react": (3.9, 3.6), "reflexion": (4.5, 3.9)}
"""Largest ratios of isolated p95 latency to PrefillShare's, and of throughputs the other way (section 4.3)."""
UNITS: Final = {
    "tokens_per_s": "tokens/s",
    "latency_p95_ms": "ms",
    "ttft_p50_ms": "ms",
    "session_p95_ms": "ms",
    "hit_share": "%",
    "tokens_per_s_error": "%",
    "latency_p95_error": "%",
    "ttft_p50_error": "%",
    "session_p95_error": "%",
}
_SHARES: Final[dict[str, frozenset[Role]]] = {"prefillshare": frozenset({"prefill"}), "isolated": frozenset()}


def main(out: Annotated[Path, typer.Option(help="The report.")] = RESULTS / f"{NAME}.json") -> None:
    """Simulate every point, print both and write the report."""
    runs, console, costs = list[Run](), Console(highlight=False), load_costs(COSTS)
    for figure in FIGURES:
        result = read_result(RESULTS / "serving" / f"prefillshare_figure_3_{figure}.json")
        for point, name in itertools.product(result.points, _SHARES):
            if not point.systems[name].summary:
                continue
            run = compare(figure, result, point, name, costs)
            runs.append(run)
            case = " ".join(f"{key}={value}" for key, value in run.case.items())
            console.print(case, *(f"{key}={value:.4g}" for key, value in run.values.items()), soft_wrap=True)
    command = "python -m sun_sglang.bench.plan.prefillshare"
    write_report(new_report(NAME, command, runs, UNITS, settings={"costs": COSTS.name, "paper": PAPER}), out)


def compare(figure: str, result: BenchResult, point: PointReport, name: str, costs: CostModel) -> Run:
    """Return the run of one system at one point."""
    settings = result.settings_of(point).workload
    plan = build_workload(settings)
    assert isinstance(plan, SessionPlan)
    sessions = Sessions(plan, settings.concurrency, settings.warmup_duration, settings.duration)
    sessions.run(system(name, plan.tasks, costs))
    values = sessions.values()
    for key, real in _real(point.systems[name]).items():
        values[f"{key.removesuffix('_ms')}_error"] = 100 * (values[key] / real - 1)
    case: dict[str, str | int | float | bool] = {"figure": figure, "system": name}
    case |= {"request_rate": settings.request_rate or 0.0, "concurrency": settings.concurrency or 0}
    return Run(case=case, seed=settings.random_seed, values={key: round(value, 3) for key, value in values.items()})


def system(name: str, tasks: tuple[str, ...], costs: CostModel) -> System:
    """Return four prefill and four decode workers, as `configs/emulated/prefillshare/` has them."""
    shares = _SHARES[name]
    pools = PlannedPool("prefill", 4 if shares else 1, costs), PlannedPool("decode", 1, costs)
    made = arranged(name, tasks, *pools, shares=shares)
    # isolated modules are whole models, and their prefill worker makes the first token
    policies = Policies(prefill="cache_affinity") if shares else Policies()
    first: Side = "decode" if shares else "prefill"
    return System(name, made.pools, made.tasks, policies, first_token=first, page_size=16)


def _real(point: SystemPoint) -> dict[str, float]:
    summary = {name: found.value for name, found in point.summary.items()}
    return {
        "tokens_per_s": summary["output_token_throughput"],
        "latency_p95_ms": summary["request_latency.p95"],
        "ttft_p50_ms": summary["time_to_first_token.p50"],
        "session_p95_ms": summary["sessions.session_latency.p95"],
    }


class Sessions:
    """Plays sessions of agents: the next call is sent when the answer of the last one is whole.

    Args:
        plan: the sessions.
        concurrency: sessions that run at once; None is no limit.
        begin: start of the window, in seconds.
        end: its end, and that of the load.
    """

    def __init__(self, plan: SessionPlan, concurrency: int | None, begin: float, end: float) -> None:
        self._workflow: Workflow = plan.workflow
        self._plan = plan
        self._concurrency = concurrency or plan.count
        self._begin, self._end = begin, end
        self._waiting: deque[int] = deque()
        self._active = 0
        self._calls: dict[int, tuple[int, int]] = {}
        self._begun: dict[int, float] = {}
        self._numbers: Iterator[int] = itertools.count()
        self._ttft, self._latency, self._sessions = Digest(), Digest(), Digest()
        self._tokens = self._cached = self._prompts = 0
        self._simulator: Simulator | None = None

    def run(self, deployment: System) -> None:
        """Play the sessions to the end of the window."""
        self._simulator = simulator = Simulator(deployment, self)
        assert self._plan.due is not None
        for session, due in enumerate(self._plan.due):
            simulator.call_at(due, partial(self._arrive, session))
        simulator.advance(self._end)

    def values(self) -> dict[str, float]:
        """Return what was measured in the window."""
        return {
            "tokens_per_s": self._tokens / (self._end - self._begin),
            "latency_p95_ms": 1000 * self._latency.percentile(95),
            "ttft_p50_ms": 1000 * self._ttft.percentile(50),
            "session_p95_ms": 1000 * self._sessions.percentile(95),
            "hit_share": 100 * self._cached / self._prompts,
        }

    def note(self, request: Request) -> None:
        """See `Recorder`."""
        now = request.ended
        session, call = self._calls.pop(request.number)
        if self._begin <= now < self._end:
            self._ttft.add(request.first - request.arrival.at)
            self._latency.add(now - request.arrival.at)
            self._tokens += request.arrival.answer
            self._cached += request.cached
            self._prompts += request.arrival.prompt
        assert self._simulator is not None
        if call + 1 < self._workflow.calls:
            self._simulator.call_at(now, lambda time: self._send(session, call + 1, time))
            return
        if self._begin <= now < self._end:
            self._sessions.add(now - self._begun[session])
        self._active -= 1
        if self._waiting:
            after = self._waiting.popleft()
            self._simulator.call_at(now, lambda time: self._start(after, time))
            self._active += 1

    def _arrive(self, session: int, now: float) -> None:
        if self._concurrency is not None and self._active >= self._concurrency:
            self._waiting.append(session)
            return
        self._active += 1
        self._start(session, now)

    def _start(self, session: int, now: float) -> None:
        self._begun[session] = now
        self._send(session, 0, now)

    def _send(self, session: int, call: int, now: float) -> None:
        assert self._simulator is not None
        number = next(self._numbers)
        self._calls[number] = session, call
        task = call % self._workflow.agents
        arrival = Arrival(now, task, self._workflow.input_tokens(call), self._workflow.output_tokens, session)
        self._simulator.send(number, arrival)


if __name__ == "__main__":
    typer.run(main)
