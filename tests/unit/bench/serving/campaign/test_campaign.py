from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.serving.campaign.interruption import Interruption
from tests.support.bench_campaign import FakeSystem, SilentView, campaign, record_of, settings
from tests.support.scripted_server import ScriptedServer, answer_at_once, scripted_server


async def answer(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
    """Answer completions at once, and requests to empty the caches."""
    if request.path == "/flush_cache":
        return web.Response(text="Cache flushed.")
    return await answer_at_once(body, request)


def prompts(server: ScriptedServer) -> list[list[int]]:
    """Return the prompts of the load, without those of first requests."""
    return [body["prompt"] for body in server.bodies if body.get("max_tokens") == 3]


async def test_campaign_systems_take_turns_that_rotate_with_the_repetitions() -> None:
    chosen = settings(concurrency=1, request_count=2, num_profile_runs=2)
    events: list[str] = []
    async with scripted_server(answer) as one, scripted_server(answer) as two:
        systems = [FakeSystem("sun", one.url, events), FakeSystem("isolated", two.url, events)]
        result = await campaign(chosen, systems)
    assert events == [
        *("start sun", "stop sun", "start isolated", "stop isolated"),
        *("start isolated", "stop isolated", "start sun", "stop sun"),
    ]
    (point,) = result.points
    for system in result.systems:
        runs = point.systems[system.name].runs
        assert [run.repetition for run in runs] == [0, 1]
        assert {run.caches for run in runs} == {"fresh"}
        assert (system.workers, system.decode_workers) == (3, 1)
        assert point.systems[system.name].summary["output_token_throughput"].repetitions == 2
    assert point.ratios["isolated"]["output_token_throughput"].repetitions == 2
    # all systems receive the same requests, in each repetition
    assert prompts(one) == prompts(two)
    assert prompts(one)[:2] == prompts(one)[2:]


async def test_campaign_serves_all_points_of_a_grid_with_empty_caches_between_them() -> None:
    chosen = settings(request_count=2, concurrency=1, sweep={"zipf": (0.0, 1.5), "concurrency": (1, 2)})
    events: list[str] = []
    async with scripted_server(answer) as server:
        result = await campaign(chosen, [FakeSystem("sun", server.url, events)])
    assert events == ["start sun", "stop sun"]
    assert [dict(point.values) for point in result.points] == [
        {"zipf": zipf, "concurrency": concurrency} for zipf in (0.0, 1.5) for concurrency in (1, 2)
    ]
    caches = [run.caches for run in result.runs]
    assert caches == ["fresh", "flushed", "flushed", "flushed"]
    assert [request.path for request in server.requests].count("/flush_cache") == 3


async def test_campaign_server_that_cannot_be_flushed_gets_other_prompts_and_the_same_load() -> None:
    chosen = settings(concurrency=1, request_count=3, num_profile_runs=3)
    async with scripted_server(answer) as server:
        system = FakeSystem("url", server.url, [], flushes=False)
        system.starts = False
        result = await campaign(chosen, [system])
    assert [run.caches for run in result.runs] == ["other_prompts"] * 3
    assert len({run.prompt_seed for run in result.runs}) == 3
    sent = [tuple(prompt) for prompt in prompts(server)]
    assert len(set(sent)) == len(sent) == 9


async def test_campaign_one_run_of_a_running_server_leaves_its_caches_as_they_are() -> None:
    async with scripted_server(answer) as server:
        system = FakeSystem("url", server.url, [])
        system.starts = False
        result = await campaign(settings(concurrency=1, request_count=1), [system])
    assert [run.caches for run in result.runs] == ["as_found"]
    assert "/flush_cache" not in [request.path for request in server.requests]


async def test_campaign_system_that_does_not_start_is_left_out_and_the_others_go_on() -> None:
    chosen = settings(concurrency=1, request_count=1, num_profile_runs=2)
    events: list[str] = []
    async with scripted_server(answer) as server:
        systems = [
            FakeSystem("broken", server.url, events, error="`base-0` ended; the end of base-0.log:\nno weights"),
            FakeSystem("sun", server.url, events),
        ]
        result = await campaign(chosen, systems)
    assert events == ["start broken", "stop broken", "start sun", "stop sun", "start sun", "stop sun"]
    assert result.system("broken").error == "`base-0` ended; the end of base-0.log:\nno weights"
    assert result.points[0].systems["broken"].runs == ()
    assert len(result.points[0].systems["sun"].runs) == 2


async def test_campaign_system_that_cannot_be_flushed_fails_with_the_reason_and_keeps_its_runs() -> None:
    async def busy(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        if request.path == "/flush_cache":
            return web.Response(status=400, text="Flush cache failed: busy")
        return await answer_at_once(body, request)

    chosen = settings(request_count=1, concurrency=1, sweep={"zipf": (0.0, 1.0)})
    async with scripted_server(busy) as server:
        result = await campaign(chosen, [FakeSystem("sun", server.url, [])])
    assert len(result.runs) == 1
    error = result.system("sun").error
    assert error is not None
    assert "sun: its caches were not emptied before the next run (400: Flush cache failed: busy)" in error


async def test_campaign_that_is_interrupted_keeps_what_was_measured_and_stops_the_system() -> None:
    chosen = settings(concurrency=1, num_profile_runs=2, sweep={"zipf": (0.0, 1.0)}, request_count=5)
    interruption, events, saved, sent = Interruption(), list[str](), list[Any](), list[Any]()

    async def answer_until(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        # the first run has 5 requests; in the second one, two are answered
        if body.get("max_tokens") == 3:
            sent.append(body)
        if len(sent) == 8:
            interruption.request("the user stopped the run (SIGINT)")
            await asyncio.Event().wait()
        return await answer(body, request)

    async with scripted_server(answer_until) as server:
        systems = [FakeSystem("sun", server.url, events), FakeSystem("other", server.url, events)]
        record = record_of(chosen, systems, saved.append)
        result = await campaign(chosen, systems, record=record, interruption=interruption)
    assert events == ["start sun", "stop sun"]
    first, second = result.runs
    assert (first.ending, second.ending) == (Ending.COMPLETE, Ending.CUT_SHORT)
    assert second.total.request_count == 2
    assert saved[-1] == result


async def test_campaign_that_is_interrupted_while_a_system_starts_cancels_the_start() -> None:
    interruption, events = Interruption(), list[str]()

    class Slow(FakeSystem):
        async def start(self) -> Any:
            events.append("start")
            interruption.request("the user stopped the run (SIGINT)")
            try:
                await asyncio.Event().wait()
            finally:
                events.append("cancelled")

    result = await campaign(settings(concurrency=1), [Slow("slow", "", events)], interruption=interruption)
    assert events == ["start", "cancelled", "stop slow"]
    assert result.runs == ()
    assert result.system("slow").error is None


async def test_campaign_names_each_run_for_its_display() -> None:
    chosen = settings(request_count=1, concurrency=1, num_profile_runs=2, sweep={"zipf": (0.0, 1.0)})
    view = SilentView()
    async with scripted_server(answer) as server:
        await campaign(chosen, [FakeSystem("sun", server.url, [])], view=view)
    assert view.titles[0] == "sun, repetition 1 of 2, point 1 of 2"
    assert view.titles[-1] == "sun, repetition 2 of 2, point 2 of 2"


async def test_campaign_texts_of_a_file_at_a_url_are_the_same_in_each_run(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "some text"}\n')
    chosen = settings(concurrency=1, request_count=1, num_profile_runs=2, input_file=(str(file),), isl="512")
    async with scripted_server(answer) as server:
        system = FakeSystem("url", server.url, [], flushes=False)
        system.starts = False
        result = await campaign(chosen, [system])
    assert [run.caches for run in result.runs] == ["as_found"] * 2
