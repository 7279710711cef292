"""Systems and views for benchmarks of a test, in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sun_sglang.bench.load.client.endpoint import Endpoint
from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.summary import summarise
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.settings import workload_settings
from sun_sglang.bench.serving.campaign.campaign import run_campaign
from sun_sglang.bench.serving.campaign.grid import grid
from sun_sglang.bench.serving.campaign.interruption import Interruption
from sun_sglang.bench.serving.campaign.record import Record
from sun_sglang.bench.serving.campaign.turn import Context
from sun_sglang.bench.serving.result import BenchResult, PlanReport, SystemReport
from sun_sglang.bench.serving.run import Moment
from sun_sglang.bench.serving.run_report import ClientReport, Counts, RunReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target, TaskWorkers, one_endpoint
from sun_sglang.errors import UserError

TASKS = ("a", "b")
WINDOW = Window(0.0, 10.0)


def settings(**values: Any) -> BenchSettings:
    """Return settings of short requests; names of `BenchSettings` are its own, all others those of the load."""
    own = {name: values.pop(name) for name in list(values) if name in BenchSettings.model_fields}
    given = {"tasks": TASKS, "isl": "4", "osl": "3", "warmup_duration": 0.0, "benchmark_duration": 600.0}
    # the server runs in this process, which may be slow
    return BenchSettings(workload=workload_settings(**{**given, **values}), **{"max_client_lag": 1e9, **own})


class FakeSystem:
    """A system that is started without any process; `events` has what happened to it."""

    starts = True

    def __init__(self, name: str, url: str, events: list[str], *, error: str = "", flushes: bool = True) -> None:
        self.report = SystemReport(name=name, kind="topology", definition={"name": name})
        self._url = url
        self._events = events
        self._error = error
        self._flushes = flushes

    async def start(self) -> Target:
        self._events.append(f"start {self.report.name}")
        if self._error:
            raise UserError(self._error)
        workers = {task: TaskWorkers(frozenset({task}), frozenset({"base"})) for task in TASKS}
        endpoint = Endpoint(self._url)
        return one_endpoint("topology", self.report.name, endpoint, TASKS, workers, can_flush=self._flushes)

    async def stop(self) -> None:
        self._events.append(f"stop {self.report.name}")


class SilentView:
    """A view that keeps the titles of runs, and calls `at_run` at the start of each."""

    def __init__(self, at_run: Callable[[str], None] = lambda _: None) -> None:
        self.titles: list[str] = []
        self._at_run = at_run

    @contextmanager
    def starting(self, system: str) -> Iterator[None]:
        yield

    @contextmanager
    def run(self, title: str, settings: BenchSettings) -> Iterator[Callable[[Moment], None]]:
        self.titles.append(title)
        self._at_run(title)
        yield lambda _: None


def record_of(
    chosen: BenchSettings, systems: list[FakeSystem], save: Callable[[BenchResult], None] = lambda _: None
) -> Record:
    """Return an empty record."""
    plans = [build(point.settings.workload) for point in grid(chosen)]
    planned = [
        (point, PlanReport(sha256=plan.sha256(), origin=plan.origin))
        for point, plan in zip(grid(chosen), plans, strict=True)
    ]
    return Record("sun bench", chosen, [system.report for system in systems], planned, save)


async def campaign(
    chosen: BenchSettings,
    systems: list[FakeSystem],
    *,
    record: Record | None = None,
    interruption: Interruption | None = None,
    view: SilentView | None = None,
) -> BenchResult:
    """Run a benchmark and return its result."""
    record = record or record_of(chosen, systems)
    context = Context(chosen, grid(chosen), len(systems), record, interruption or Interruption(), view or SilentView())
    await run_campaign(systems, context)
    return record.result


def finished_run(repetition: int, done: int, *, valid: bool = True, ending: Ending = Ending.COMPLETE) -> RunReport:
    """Return a run in which so many requests of one token were completed."""
    records = [
        RequestRecord(i, "a", 1, None, sent=1.0, first=1.5, last=1.5, ended=1.5, output_tokens=1) for i in range(done)
    ]
    return RunReport(
        repetition=repetition,
        prompt_seed=0,
        caches="fresh",
        started="2026-01-01T00:00:00+00:00",
        ending=ending,
        valid=valid,
        problems=() if valid else ("late",),
        notes=(),
        window=WINDOW,
        counts=Counts(preflight=1, sent=done, succeeded=done, failed=0, cut_off=0),
        total=summarise(records, WINDOW),
        tasks={},
        fairness=None,
        errors=(),
        client=ClientReport(cpu_share=None, lag=None),
    )
