from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.serving.campaign.interruption import Interruption
from sun_sglang.bench.serving.comparison import MAX_RATE
from sun_sglang.bench.serving.problems import problems_of_result
from sun_sglang.bench.serving.result import BenchResult
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target
from tests.support.bench_campaign import FakeSystem, campaign, finished_run, settings

GOODPUT: dict[str, Any] = {"find_max_rate": True, "goodput": {"request_latency": 100.0}, "goodput_ratio": 0.9}


def run_at(rate: float, limit: float, repetition: int, **changes: Any) -> RunReport:
    """Return a run at a rate of a system that carries another one; above it, it is late and falls behind."""
    run = finished_run(repetition, 100)
    share = 1.0 if rate <= limit else 0.5
    total = run.total.model_copy(update={"good_request_ratio": share, "achieved_ratio": share})
    return run.model_copy(update={"total": total, **changes})


async def search(monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], measure: Any = None, **values: Any) -> Any:
    """Search the highest rate of systems that carry some rates; returns the result and the rates that were tried."""
    tried: list[tuple[str, float]] = []

    async def measured(target: Target, chosen: BenchSettings, _plan: Any, *, repetition: int, **_: Any) -> RunReport:
        rate = chosen.workload.request_rate
        assert rate is not None
        tried.append((target.name, rate))
        return run_at(rate, limits[target.name], repetition, **(measure(rate) if measure else {}))

    async def flush(_: Target) -> None:
        return

    monkeypatch.setattr("sun_sglang.bench.serving.campaign.turn.measure", measured)
    monkeypatch.setattr("sun_sglang.bench.serving.campaign.caches._flush", flush)
    given = {"request_rate": 1.0, **GOODPUT, **{n: values.pop(n) for n in list(values) if n != "interruption"}}
    result = await campaign(settings(**given), [FakeSystem(name, "http://x", []) for name in limits], **values)
    return result, tried


async def test_search_finds_the_highest_rate_of_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    found, tried = await search(monkeypatch, {"sun": 24.0, "isolated": 6.0}, num_profile_runs=2)
    assert isinstance(found, BenchResult)
    (point,) = found.points
    for name, limit in (("sun", 24.0), ("isolated", 6.0)):
        searches = point.systems[name].searches
        assert [one.repetition for one in searches] == [0, 1]
        for one in searches:
            assert one.complete
            assert one.max_rate == pytest.approx(limit, rel=0.05)
            assert one.failed_rate is not None
            assert one.failed_rate > limit
            assert all(step.within == (step.request_rate <= limit) for step in one.steps)
    assert point.ratios["isolated"][MAX_RATE].value == pytest.approx(4.0, rel=0.1)
    assert problems_of_result(found) == ()
    # one system at a time, and not more runs than the search needs
    names = [name for name, _ in tried]
    assert names == sorted(names[: len(names) // 2], reverse=True) + sorted(names[len(names) // 2 :])


async def test_search_system_that_does_not_keep_up_is_not_within_the_objectives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def behind(rate: float) -> dict[str, Any]:
        run = run_at(rate, 1e9, 0)
        return {"total": run.total.model_copy(update={"good_request_ratio": 1.0, "achieved_ratio": 0.8})}

    found, _ = await search(monkeypatch, {"sun": 1e9}, behind)
    assert found.points[0].systems["sun"].searches[0].max_rate is None


async def test_search_ends_where_this_process_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(rate: float) -> dict[str, Any]:
        return {"valid": False, "problems": ("this process was late",)} if rate > 3 else {}

    found, tried = await search(monkeypatch, {"sun": 24.0}, late)
    (one,) = found.points[0].systems["sun"].searches
    assert (one.complete, one.max_rate) == (False, 2.0)
    assert [rate for _, rate in tried] == [1.0, 2.0, 4.0]
    assert MAX_RATE not in found.points[0].systems["sun"].summary
    assert problems_of_result(found) == ("the result is not valid: this process was late",)


async def test_search_rate_at_which_every_request_fails_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(rate: float) -> dict[str, Any]:
        failed = {"valid": False, "ending": Ending.TARGET_FAILED, "problems": ("all failed",)}
        return failed if rate > 3 else {}

    found, _ = await search(monkeypatch, {"sun": 24.0}, fails)
    (one,) = found.points[0].systems["sun"].searches
    assert one.complete
    assert one.max_rate == pytest.approx(3, rel=0.05)
    assert problems_of_result(found) == ()


async def test_search_that_is_interrupted_keeps_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    interruption = Interruption()

    def stopping(rate: float) -> dict[str, Any]:
        if rate > 3:
            interruption.request("the user stopped the run (SIGINT)")
            return {"ending": Ending.CUT_SHORT}
        return {}

    found, tried = await search(monkeypatch, {"sun": 24.0, "other": 1.0}, stopping, interruption=interruption)
    (one,) = found.points[0].systems["sun"].searches
    assert (one.complete, len(one.steps)) == (False, 3)
    assert {name for name, _ in tried} == {"sun"}
