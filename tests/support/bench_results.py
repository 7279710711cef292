"""Made-up results of `sun bench` with the shapes of real ones: shared decode workers stay level under skew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.load.metrics.sessions import SessionMetrics, TurnMetrics
from sun_sglang.bench.load.metrics.summary import Metrics
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.settings import workload_settings
from sun_sglang.bench.provenance import Machine
from sun_sglang.bench.serving.comparison import ratios_of, summarise_repetitions
from sun_sglang.bench.serving.result import (
    BenchResult,
    PlanReport,
    PointReport,
    SearchReport,
    SystemPoint,
    SystemReport,
)
from sun_sglang.bench.serving.run_report import ClientReport, Counts, ErrorReport, RunReport, TaskReport
from sun_sglang.bench.serving.settings import BenchSettings

TASKS = ("math", "code", "chat", "law")
SHARED = {"sun", "prefillshare"}
"""Systems whose workers all tasks share; of the others each task has its own."""


def distribution(middle: float, unit: str = "ms", tail: float = 2.0) -> Distribution:
    """Return a distribution around a median, whose 99th percentile is `tail` times the median."""
    return Distribution(
        unit=unit,
        count=100,
        avg=middle * 1.05,
        std=middle * 0.2,
        min=middle * 0.5,
        max=middle * tail * 1.1,
        p50=middle,
        p90=middle * (1 + (tail - 1) * 0.6),
        p95=middle * (1 + (tail - 1) * 0.8),
        p99=middle * tail,
    )


def metrics(
    tokens: float,
    tpot: float,
    ttft: float,
    *,
    osl: int = 64,
    decode_workers: int | None = 4,
    achieved: float = 1.0,
    is_open: bool = False,
    hits: float | None = None,
    failed: int = 0,
) -> Metrics:
    """Return metrics of one run.

    Args:
        tokens: output tokens per second; 0: nothing was completed.
        tpot: median milliseconds per output token.
        ttft: median milliseconds to the first token.
        osl: output tokens of a request.
        decode_workers: workers that decode, and as many that prefill; None: unknown.
        achieved: completed by offered requests.
        is_open: whether requests were due at times.
        hits: share of the prompt tokens that were in a cache.
        failed: failed requests.
    """
    done = round(tokens * 60 / osl)
    latency = distribution(ttft + tpot * osl, tail=1 + 1 / max(achieved, 0.05)) if done else None
    tpots = distribution(tpot) if done else None
    return Metrics(
        request_count=done,
        error_request_count=failed,
        offered_request_count=round(done / achieved),
        achieved_ratio=achieved,
        request_throughput=tokens / osl,
        output_token_throughput=tokens,
        arrived_token_throughput=tokens * 1.01,
        total_token_throughput=tokens * 1.5,
        output_token_throughput_per_worker=tokens / decode_workers / 2 if decode_workers else None,
        output_token_throughput_per_decode_worker=tokens / decode_workers if decode_workers else None,
        time_to_first_token=distribution(ttft, tail=3.0) if done else None,
        inter_token_latency=tpots,
        inter_chunk_latency=distribution(tpot, tail=4.0) if done else None,
        request_latency=latency,
        output_token_throughput_per_user=distribution(1000 / tpot, "tokens/sec/user") if done else None,
        interactivity=1000 / tpots.avg if tpots else None,
        scheduled_time_to_first_token=distribution(ttft) if is_open and done else None,
        scheduled_request_latency=latency if is_open else None,
        input_sequence_length=distribution(32, "tokens") if done else None,
        output_sequence_length=distribution(osl, "tokens") if done else None,
        cached_token_count=None if hits is None else round(1000 * hits),
        cache_hit_ratio=hits,
        good_request_count=None,
        goodput=None,
        good_request_ratio=None,
    )


def run(
    total: Metrics,
    repetition: int = 0,
    *,
    tasks: Sequence[str] = TASKS,
    zipf: float = 0.0,
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
    errors: Sequence[ErrorReport] = (),
    ending: Ending = Ending.COMPLETE,
    sessions: SessionMetrics | None = None,
) -> RunReport:
    """Return a run whose tasks have the shares of a Zipf distribution."""
    weights = [rank**-zipf for rank in range(1, len(tasks) + 1)]
    shares = [weight / sum(weights) for weight in weights]
    return RunReport(
        repetition=repetition,
        prompt_seed=repetition,
        caches="fresh",
        started=f"2026-01-01T00:0{repetition % 10}:00+00:00",
        ending=ending,
        valid=not problems,
        problems=tuple(problems),
        notes=tuple(notes),
        window=Window(30.0, 90.0),
        counts=Counts(preflight=len(tasks), sent=400, succeeded=380, failed=total.error_request_count, cut_off=8),
        total=total,
        tasks={
            task: TaskReport(
                sent=round(400 * share),
                offered_share=share,
                metrics=total.model_copy(update={"output_token_throughput": total.output_token_throughput * share}),
            )
            for task, share in zip(tasks, shares, strict=True)
        },
        fairness=1.0 - 0.05 * zipf,
        errors=tuple(errors),
        client=ClientReport(cpu_share=0.1, lag=distribution(1.0)),
        sessions=sessions,
    )


def sessions_of(total: Metrics, *, calls: int = 12) -> SessionMetrics:
    """Return metrics of sessions whose calls have the metrics of a run."""
    whole, done = total.request_latency, total.request_count // calls
    latency = distribution(whole.p50 * calls) if whole else None
    return SessionMetrics(
        session_count=done,
        error_session_count=0,
        offered_session_count=done,
        started_session_count=done,
        achieved_ratio=total.achieved_ratio,
        offered_session_rate=done / 60,
        started_session_rate=done / 60,
        session_throughput=done / 60,
        session_latency=latency,
        scheduled_session_latency=latency if total.scheduled_request_latency else None,
        stand_in_count=0,
        turns=tuple(
            TurnMetrics(
                turn=turn,
                request_count=done * 4,
                input_sequence_length=total.input_sequence_length,
                cached_token_count=None,
                cache_hit_ratio=total.cache_hit_ratio,
                time_to_first_token=total.time_to_first_token,
                request_latency=whole,
            )
            for turn in range(calls // 4)
        ),
    )


def result(
    systems: Sequence[str] = ("sun", "isolated"),
    *,
    zipf: Sequence[float] = (0.0, 1.5, 3.0),
    concurrency: Sequence[int] = (),
    request_rate: Sequence[float] = (),
    osl: Sequence[int] = (64,),
    repetitions: int = 3,
    tasks: Sequence[str] = TASKS,
    command: str = "sun bench --compare sun.yaml isolated.yaml",
    max_rate: bool = False,
    **settings: Any,
) -> BenchResult:
    """Return a result over a grid.

    Args:
        systems: names; those in `SHARED` have one decode worker, the others one for each task.
        zipf: values of the axis.
        concurrency: values of the axis; with a rate, the most in flight.
        request_rate: values of the axis; empty: a closed loop.
        osl: values of the axis.
        repetitions: of each point.
        tasks: names.
        command: the command line.
        max_rate: whether the highest rate was searched.
        **settings: other settings of the load.
    """
    axes: dict[str, Sequence[Any]] = {"zipf": zipf, "concurrency": concurrency, "request_rate": request_rate}
    axes["osl"] = [str(length) for length in osl]
    axes = {name: values for name, values in axes.items() if values}
    workload = workload_settings(
        tasks=tuple(tasks), isl="32", **{name: values[0] for name, values in axes.items()}, **settings
    )
    points = []
    for values in product(*axes.values()):
        at = dict(zip(axes, values, strict=True))
        found = {}
        for name in systems:
            runs = tuple(_run(name, at, number, tasks, workload.workload) for number in range(repetitions))
            rate = 8.0 if name in SHARED else 3.5 - 0.5 * at["zipf"]
            searches = tuple(
                SearchReport(repetition=i, max_rate=rate + 0.2 * i, failed_rate=rate + 1, complete=True, steps=())
                for i in range(repetitions if max_rate else 0)
            )
            found[name] = SystemPoint(runs=runs, searches=searches, summary=summarise_repetitions(runs, searches))
        first, *others = systems
        points.append(
            PointReport(
                values={name: at[name] for name in axes if len(axes[name]) > 1},
                plan=PlanReport(sha256=f"{abs(hash(tuple(at.values()))):064x}"[:64], origin={}),
                systems=found,
                ratios={other: ratios_of(found[first], found[other]) for other in others},
            )
        )
    return BenchResult(
        command=command,
        settings=BenchSettings(
            workload=workload,
            num_profile_runs=repetitions,
            sweep={name: tuple(values) for name, values in axes.items() if len(values) > 1},  # type: ignore[misc]
        ),
        machine=Machine(processor="x86_64", cores=2, kernel="6.1"),
        versions={"python": "3.11.9", "sun-sglang": "0.1.0"},
        revision="0" * 40,
        systems=tuple(
            SystemReport(
                name=name,
                kind="topology",
                workers=5 if name in SHARED else 8,
                decode_workers=1 if name in SHARED else 4,
                definition={"tasks": {task: {"prefill": task, "decode": "base"} for task in tasks}},
            )
            for name in systems
        ),
        points=tuple(points),
    )


def _run(system: str, at: dict[str, Any], repetition: int, tasks: Sequence[str], workload: str) -> RunReport:
    """Return a run: throughput saturates with the load, and falls with skew where each task has its own workers."""
    shared = system in SHARED
    zipf, users = at["zipf"], at.get("concurrency") or 8
    rate = at.get("request_rate")
    load = rate * 2 if rate else users
    wave = 1 + 0.03 * (repetition - 1)
    own = 1 + 0.15 * (sum(map(ord, system)) % 5)
    most = 60.0 if shared else (24.0 - 2.5 * zipf) * own
    tokens = most * load / (load + 4) * wave
    achieved = min(1.0, tokens / (rate * 8)) if rate else 0.99
    hits = (0.89 if shared else max(0.1, 0.6 - users / 200)) if workload != "requests" else None
    total = metrics(
        tokens,
        (40 + 8 * load) * (1.0 if shared else (2.2 + 0.1 * zipf) / own) / wave,
        (100 + 20 * load) / max(0.05, achieved) ** 2,
        osl=int(at.get("osl", 64)),
        decode_workers=1 if shared else 4,
        achieved=achieved,
        is_open=rate is not None,
        hits=hits,
    )
    sessions = sessions_of(total) if workload != "requests" else None
    return run(total, repetition, tasks=tasks, zipf=zipf, sessions=sessions)
