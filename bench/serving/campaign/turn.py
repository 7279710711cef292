"""One turn of a system: from its start to its end, at all points of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.serving.campaign.caches import equal_caches
from sun_sglang.bench.serving.campaign.grid import Point
from sun_sglang.bench.serving.campaign.interruption import InterruptedByUserError, Interruption
from sun_sglang.bench.serving.campaign.rate_search import MOST_STEPS, RateSearch, is_the_clients_fault, is_within
from sun_sglang.bench.serving.campaign.record import Record
from sun_sglang.bench.serving.campaign.view import CampaignView
from sun_sglang.bench.serving.result import SearchReport, SearchStep
from sun_sglang.bench.serving.run import NothingMeasuredError, measure
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings, settings_at
from sun_sglang.bench.serving.targets.target import Target

# with fewer requests in a window, one of them decides about the share that is within the objectives
_FEWEST_REQUESTS = 20


@dataclass(frozen=True)
class Context:
    """What all turns of a benchmark share.

    Attributes:
        settings: the settings of the benchmark.
        points: the points of the grid.
        systems: number of systems.
        record: receives what is measured; what it has is not measured again.
        interruption: ends the benchmark early.
        view: shows it.
    """

    settings: BenchSettings
    points: Sequence[Point]
    systems: int
    record: Record
    interruption: Interruption
    view: CampaignView

    @property
    def is_one_run(self) -> bool:
        """Whether the benchmark is one run, whose caches are as they are."""
        runs = self.systems * len(self.points) * self.settings.num_profile_runs
        return runs == 1 and not self.settings.find_max_rate

    def title(self, system: str, repetition: int, point: Point) -> str:
        """Return the name of a run: the system, and which of its runs it is."""
        parts = [system]
        if self.settings.num_profile_runs > 1:
            parts.append(f"repetition {repetition + 1} of {self.settings.num_profile_runs}")
        if len(self.points) > 1:
            parts.append(f"point {point.number + 1} of {len(self.points)}")
        return ", ".join(parts)


class Turn:
    """One repetition of one system.

    Args:
        context: what all turns share.
        target: the system, which runs.
        repetition: number of the repetition, from 0.
        fresh: whether the system was just started.
    """

    def __init__(self, context: Context, target: Target, repetition: int, *, fresh: bool) -> None:
        self._context = context
        self._target = target
        self._repetition = repetition
        self._fresh = fresh

    async def measure(self, point: Point) -> None:
        """Measure a point, or search the highest rate there, and record it.

        Raises:
            InterruptedByUserError: the user ended the benchmark; what was measured until then is recorded.
            SunError: the system cannot be measured.
        """
        context = self._context
        try:
            found = await (self._search(point) if point.settings.find_max_rate else self._run(point, point.settings))
        except NothingMeasuredError as e:
            raise InterruptedByUserError(str(e)) from e
        if isinstance(found, RunReport) or found.steps:
            context.record.add(point.number, self._target.name, found)
        if context.interruption.is_requested:
            raise InterruptedByUserError("the user stopped the benchmark")

    async def _search(self, point: Point) -> SearchReport:
        first = point.settings.workload.request_rate
        assert first is not None, "a search starts with a rate"
        least = _FEWEST_REQUESTS / point.settings.window.seconds
        search, steps, complete = RateSearch(first, least=least), list[SearchStep](), True
        while complete and (rate := search.next_rate) is not None:
            settings = settings_at(point.settings, {"request_rate": rate})
            try:
                run = await self._run(point, settings, step=len(steps))
            except (NothingMeasuredError, InterruptedByUserError):
                complete = False
                break
            within = is_within(run, point.settings.goodput_ratio)
            steps.append(SearchStep(request_rate=rate, within=within, run=run))
            complete = not self._context.interruption.is_requested and not is_the_clients_fault(run)
            if complete:
                search.note(rate, within=within)
        return SearchReport(
            repetition=self._repetition,
            max_rate=search.max_rate,
            failed_rate=search.failed_rate,
            complete=complete,
            steps=tuple(steps),
        )

    async def _run(self, point: Point, settings: BenchSettings, *, step: int = 0) -> RunReport:
        context, target = self._context, self._target
        number = (self._repetition * len(context.points) + point.number) * MOST_STEPS + step
        fresh, self._fresh = self._fresh, False
        settings, caches = await context.interruption.unless_requested(
            equal_caches(target, settings, fresh=fresh, alone=context.is_one_run, number=number)
        )
        with context.view.run(context.title(target.name, self._repetition, point), settings) as show:
            return await measure(
                target,
                settings,
                build(settings.workload),
                stop=context.interruption.new_stop(),
                show=show,
                repetition=self._repetition,
                caches=caches,
            )
