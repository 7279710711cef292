from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiohttp import web

from sun_sglang.bench.load.client.endpoint import Endpoint, Route
from sun_sglang.bench.load.drive.stop import Ending, StopSignal
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.settings import workload_settings
from sun_sglang.bench.provenance import this_machine
from sun_sglang.bench.serving.comparison import summarise_repetitions
from sun_sglang.bench.serving.result import (
    BenchResult,
    PlanReport,
    PointReport,
    SystemPoint,
    SystemReport,
    read_result,
    result_schema,
    write_result,
)
from sun_sglang.bench.serving.run import Moment, NothingMeasuredError, measure
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings
from sun_sglang.bench.serving.targets.target import Target, one_endpoint
from tests.support.scripted_server import (
    Handler,
    answer_at_once,
    scripted_server,
    stream_with_ids,
    whole_stream,
)

TASKS = ("a", "b")


def settings(**values: Any) -> BenchSettings:
    given = {"tasks": TASKS, "isl": "4", "osl": "3", "warmup_duration": 0.0, "benchmark_duration": 600.0}
    # the server runs in this process, which may be slow: lateness has tests of its own
    return BenchSettings(workload=workload_settings(**{**given, **values}), max_client_lag=1e9)


async def run(
    handler: Handler, stop: StopSignal | None = None, show: Callable[[Moment], None] = lambda _: None, **values: Any
) -> RunReport:
    chosen = settings(**values)
    async with scripted_server(handler) as server:
        target = one_endpoint("url", server.url, Endpoint(server.url), TASKS)
        return await measure(target, chosen, build(chosen.workload), stop=stop or StopSignal(), show=show)


class Counting:
    """Answers at once, and calls `at` with the number of each request after the two of the preflight."""

    def __init__(self, at: Callable[[int], Awaitable[web.StreamResponse | None]]) -> None:
        self.count = -len(TASKS)
        self._at = at

    async def __call__(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        self.count += 1
        if self.count > 0 and (reply := await self._at(self.count)) is not None:
            return reply
        return await answer_at_once(body, request)


async def test_measure_number_of_requests_counts_each_of_them() -> None:
    moments: list[Moment] = []
    report = await run(answer_at_once, show=moments.append, concurrency=2, request_count=7)
    assert report.ending is Ending.COMPLETE
    assert report.counts.model_dump() == {"preflight": 2, "sent": 7, "succeeded": 7, "failed": 0, "cut_off": 0}
    assert (report.total.request_count, report.total.error_request_count) == (7, 0)
    assert sum(task.metrics.request_count for task in report.tasks.values()) == 7
    assert sum(task.sent for task in report.tasks.values()) == 7
    assert report.total.output_sequence_length is not None
    assert report.total.output_sequence_length.avg == 3
    assert report.total.cache_hit_ratio == 0
    assert report.errors == ()
    assert moments


async def test_measure_failures_are_reported_by_kind_and_task_with_the_first_message() -> None:
    async def at(number: int) -> web.StreamResponse | None:
        if number == 2:
            return web.json_response({"error": {"message": f"full at {number}"}}, status=429)
        if number in (4, 5):
            return web.Response(body=whole_stream(6 - number), content_type="text/event-stream")
        return None

    report = await run(Counting(at), concurrency=1, request_count=6)
    assert report.counts.model_dump() == {"preflight": 2, "sent": 6, "succeeded": 3, "failed": 3, "cut_off": 0}
    assert report.total.error_request_count == 3
    short, full = report.errors
    assert (short.kind, short.count, short.in_window) == ("wrong_length", 2, 2)
    assert short.first_message == "2 tokens instead of 3, finish reason `length`"
    assert sum(short.tasks.values()) == 2
    assert (full.kind, full.count, full.first_message) == ("http_429", 1, "full at 2")
    assert report.notes == ("3 of 6 requests that ended in the window failed",)


async def test_measure_that_is_stopped_in_the_window_reports_what_was_measured() -> None:
    stop, never = StopSignal(), asyncio.Event()

    async def at(number: int) -> web.StreamResponse | None:
        if number == 4:
            stop.stop(Ending.CUT_SHORT, "the user stopped the run")
            await never.wait()
        return None

    report = await run(Counting(at), stop, concurrency=1)
    assert report.ending is Ending.CUT_SHORT
    assert report.counts.model_dump() == {"preflight": 2, "sent": 4, "succeeded": 3, "failed": 0, "cut_off": 1}
    assert report.total.request_count == 3
    assert 0 < report.window.seconds < 600


async def test_measure_that_is_stopped_in_the_warm_up_measures_nothing() -> None:
    stop = StopSignal()

    async def at(number: int) -> web.StreamResponse | None:
        stop.stop(Ending.CUT_SHORT, "the user stopped the run")
        return None

    with pytest.raises(NothingMeasuredError, match="nothing was measured, and no file is written"):
        await run(Counting(at), stop, concurrency=1, warmup_duration=600.0)


async def test_measure_that_is_stopped_in_its_first_requests_measures_nothing() -> None:
    stop = StopSignal()

    async def hang(_: dict[str, Any], request: web.Request) -> web.StreamResponse:
        stop.stop(Ending.CUT_SHORT, "the user stopped the run")
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(NothingMeasuredError):
        await run(hang, stop, concurrency=1)


async def test_measure_requests_that_all_end_in_the_warm_up_are_refused_with_the_fix() -> None:
    with pytest.raises(BenchError, match="all 3 requests were answered in the warm-up; set --warmup-duration 0"):
        await run(answer_at_once, concurrency=1, request_count=3, warmup_duration=600.0)


async def test_measure_target_that_fails_every_request_ends_the_run() -> None:
    async def at(number: int) -> web.StreamResponse | None:
        return web.json_response({"error": {"message": "no worker"}}, status=503)

    report = await run(Counting(at), concurrency=50)
    assert (report.ending, report.valid) == (Ending.TARGET_FAILED, False)
    assert report.problems == ("all of the first 50 requests failed; the last: http_503: no worker",)
    with pytest.raises(BenchError, match="all of the first 50 requests failed"):
        await run(Counting(at), concurrency=50, warmup_duration=600.0)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda: web.json_response({"error": {"message": "no such model"}}, status=404), "http_404: no such model"),
        (lambda: web.Response(body=whole_stream(1), content_type="text/event-stream"), "wrong_length: 1 tokens"),
    ],
)
async def test_measure_task_that_cannot_be_measured_is_refused_before_the_load(
    reply: Callable[[], web.Response], message: str
) -> None:
    async def only_a(body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return reply() if body["model"] == "b" else await answer_at_once(body, request)

    with pytest.raises(BenchError, match=f"task `b` cannot be measured: a first request failed with {message}"):
        await run(only_a, concurrency=1)


@asynccontextmanager
async def dataset(tmp_path: Path, line: str) -> Any:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line + "\n")
    yield str(file)


@pytest.mark.parametrize(
    ("line", "path", "field"),
    [
        ('{"prompt": "some text"}', "/v1/completions", "prompt"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "/v1/chat/completions", "messages"),
    ],
)
async def test_measure_first_requests_have_the_kind_of_the_load(
    tmp_path: Path, line: str, path: str, field: str
) -> None:
    async with scripted_server(answer_at_once) as server, dataset(tmp_path, line) as file:
        chosen = BenchSettings(
            workload=workload_settings(
                tasks=TASKS, osl="3", input_file=(file,), concurrency=1, request_count=1, warmup_duration=0.0
            ),
            max_client_lag=1e9,
        )
        target = one_endpoint("url", server.url, Endpoint(server.url), TASKS)
        report = await measure(target, chosen, build(chosen.workload), stop=StopSignal(), show=lambda _: None)
    assert report.counts.succeeded == 1
    assert {request.path for request in server.requests} == {path}
    assert all(field in body for body in server.bodies)


async def test_result_is_valid_against_its_schema_and_reads_back_equal(tmp_path: Path) -> None:
    report = await run(answer_at_once, concurrency=2, request_count=4)
    point = PointReport(
        plan=PlanReport(sha256="0", origin={"files": []}),
        systems={"http://x": SystemPoint(runs=(report,), summary=summarise_repetitions([report], []))},
    )
    result = BenchResult(
        command="sun bench",
        settings=settings(concurrency=2),
        machine=this_machine(),
        revision=None,
        systems=(SystemReport(name="http://x", kind="url"),),
        points=(point,),
    )
    check_file(result, tmp_path)


def check_file(result: BenchResult, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result(result, file)
    jsonschema.validate(result.model_dump(mode="json"), result_schema())
    assert read_result(file) == result
    assert list(tmp_path.iterdir()) == [file]
    file.write_text('{"format": "other"}')
    with pytest.raises(BenchError, match=r"result\.json: format: "):
        read_result(file)
    with pytest.raises(BenchError, match=r"^--output: .* cannot be written"):
        write_result(result, tmp_path / "no" / "result.json")


async def test_measure_each_task_goes_to_its_own_server_with_its_own_headers() -> None:
    async with scripted_server(answer_at_once) as one, scripted_server(answer_at_once) as two:
        routes = {
            "a": Route(Endpoint(one.url, {"X-Key": "1"}), "model-a"),
            "b": Route(Endpoint(two.url, {"X-Key": "2"}), "base", {"lora_path": "b"}),
        }
        chosen = settings(concurrency=2, request_count=8)
        target = Target("peer", "plain.yaml", routes)
        report = await measure(target, chosen, build(chosen.workload), stop=StopSignal(), show=lambda _: None)
    assert report.counts.succeeded == 8
    assert len(one.bodies) == report.tasks["a"].sent + 1
    assert len(two.bodies) == report.tasks["b"].sent + 1
    assert {(body["model"], body.get("lora_path")) for body in one.bodies} == {("model-a", None)}
    assert {(body["model"], body.get("lora_path")) for body in two.bodies} == {("base", "b")}
    assert {request.headers["X-Key"] for request in one.requests} == {"1"}
    assert {request.headers["X-Key"] for request in two.requests} == {"2"}


AGENTS: dict[str, Any] = {
    "workload": "react",
    "agent_turns": 2,
    "agent_initial_tokens": 6,
    "agent_appended_tokens": 2,
    "agent_output_tokens": 3,
    "isl": "512",
    "osl": "128",
}


class Remembering:
    """Answers with ids that follow from the prompt, and reports as cached what an earlier prompt began with."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    async def __call__(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        prompt = body["prompt"]
        cached = max((len(old) for old in self.prompts if prompt[: len(old)] == old), default=0)
        self.prompts.append(prompt)
        answer = [900 + (len(prompt) + i) % 90 for i in range(body["max_tokens"])]
        return web.Response(body=stream_with_ids(prompt, answer, cached=cached), content_type="text/event-stream")


async def test_measure_sessions_continue_the_answers_and_are_reported_as_a_whole() -> None:
    server = Remembering()
    report = await run(server, concurrency=1, request_count=3, **AGENTS)
    found = report.sessions
    assert found is not None
    assert (found.session_count, found.error_session_count, found.stand_in_count) == (3, 0, 0)
    assert (found.offered_session_count, found.started_session_count, report.achieved_ratio) == (3, 3, 1.0)
    assert found.session_latency is not None
    assert report.total.request_latency is not None
    assert found.session_latency.min >= report.total.request_latency.min
    # 4 agents, 2 turns; the two of the preflight are no calls
    prompts = server.prompts[len(TASKS) :]
    assert [len(prompt) for prompt in prompts] == [6 + 5 * call for call in range(8)] * 3
    for before, after in pairwise(prompts[:8]):
        assert after[: len(before)] == before
        assert after[len(before)] == 900 + len(before) % 90
    hits = [sum(range(6, 6 + 5 * 3, 5)) / sum(range(6, 6 + 5 * 4, 5)), sum(range(21, 41, 5)) / sum(range(26, 46, 5))]
    assert [turn.cache_hit_ratio for turn in found.turns] == pytest.approx(hits)
    assert report.notes == ()


async def test_measure_sessions_without_ids_in_the_answers_has_a_note() -> None:
    report = await run(answer_at_once, concurrency=1, request_count=1, **AGENTS)
    assert report.sessions is not None
    assert report.sessions.stand_in_count == 8
    (note,) = report.notes
    assert note.startswith("the server did not report the token ids of 8 answers")


async def test_measure_requests_have_no_sessions() -> None:
    assert (await run(answer_at_once, concurrency=1, request_count=1)).sessions is None
