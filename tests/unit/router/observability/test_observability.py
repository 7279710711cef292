"""The output of a running router: log lines, traces, metrics, and the dashboard that reads them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.cli import status
from sun_sglang.errors import UserError
from sun_sglang.launch import discovery
from sun_sglang.launch.discovery import Deployment
from sun_sglang.launch.state import DeploymentState, Phase
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_id import RandomBytes, choose_request_id
from sun_sglang.router.serving.reporting.tracing import Tracing, load_tracing
from sun_sglang.router.task_weights.worker_modules import OWN
from tests.unit.router.conftest import PATIENCE_S, SUN, Start, System
from tests.unit.router.fake_worker import Fault
from tests.unit.router.weights_refs import module

ASK = {"model": "math", "input_ids": [5, 6, 7]}
DASHBOARDS = sorted((Path(__file__).parents[4] / "configs" / "grafana").glob("*.json"))


# --- ids and logs ---------------------------------------------------------------------------------------------------


async def test_a_request_has_an_id_in_its_answer_and_in_the_logs(small: System) -> None:
    small["base-0"].fault = Fault(status=500)
    for stream in (False, True):
        async with small.client.post("/generate", json={**ASK, "stream": stream}, headers={"X-Request-Id": "r-1"}) as r:
            assert (r.status, r.headers["X-Request-Id"]) == (502, "r-1")
    lines = [e for e in small.events if e.get("request") == "r-1"]
    assert {e["event"] for e in lines} >= {"attempt_failed", "request"}
    ended = [e for e in lines if e["event"] == "request"]
    assert len(ended) == 2
    assert (ended[0]["task"], ended[0]["outcome"], ended[0]["answers"]) == ("math", "failed", 1)
    assert ended[0]["workers"] == [["math-0", "base-0"]] * 2
    small["base-0"].fault = None
    made = set()
    for _ in range(3):
        async with small.client.post("/generate", json={**ASK, "stream": True}) as r:
            assert r.status == 200
            made.add(r.headers["X-Request-Id"])
            await r.read()
    assert len(made) == 3
    assert not any(e.get("request") in made for e in small.events), "what went well is not logged unless asked for"
    assert all("request" not in e for e in small.events if e["event"] in ("path_proven", "worker"))


async def test_every_request_is_logged_where_asked_for(start: Start) -> None:
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"log_requests": True})
    await system.post("/generate", ASK)
    async with system.client.post("/generate", json={"model": "no"}) as r:
        assert len(r.headers["X-Request-Id"]) == 32
    ended = [e for e in system.events if e["event"] == "request"]
    assert [(e["outcome"], e["path"]) for e in ended] == [("ok", "/generate")]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\x7f", "é", None])
def test_an_id_that_is_none_is_replaced(given: str | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", choose_request_id(given, RandomBytes()))
    assert choose_request_id("mine", RandomBytes()) == "mine"


# --- traces ---------------------------------------------------------------------------------------------------------


class FakeTracer:
    """Keeps spans, as OpenTelemetry's tracer makes them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def start_span(
        self, name: str, context: Any = None, kind: Any = None, attributes: Any = None, start_time: int = 0
    ) -> Any:
        from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, get_current_span

        class Span(NonRecordingSpan):
            def end(self, end_time: int | None = None) -> None:
                self.ended = end_time

        span: Any = Span(INVALID_SPAN_CONTEXT)
        span.name, span.parent, span.attributes = name, get_current_span(context), attributes or {}
        span.start = start_time
        self.spans.append(span)
        return span


async def test_spans_of_the_wait_the_legs_and_the_hand_over(start: Start) -> None:
    pytest.importorskip("opentelemetry")
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1})
    tracer: Any = FakeTracer()
    system.router.service.reporter.tracing = Tracing(tracer)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-Id": "r-1"}
    async with system.client.post("/generate", json={**ASK, "stream": True}, headers=headers) as r:
        assert r.status == 200
        await r.read()
    await system.quiet()
    spans = {s.name: s for s in tracer.spans}
    assert next(iter(spans)) == "request"
    assert set(spans) >= {"request", "prefill leg", "decode leg"}
    root = spans["request"]
    assert f"{root.parent.get_span_context().trace_id:032x}" == trace
    assert root.attributes == {
        "sun.task": "math",
        "sun.outcome": "ok",
        "sun.request_id": "r-1",
        "http.route": "/generate",
    }
    assert spans["prefill leg"].attributes["sun.worker"] == "math-0"
    assert spans["decode leg"].attributes["sun.worker"] == "base-0"
    for span in tracer.spans[1:]:
        assert span.parent is root
        assert root.start <= span.start <= span.ended <= root.ended


async def test_prefill_leg_of_a_module_names_it_and_shows_that_it_had_to_be_loaded(start: Start) -> None:
    pytest.importorskip("opentelemetry")
    system: System = await start(
        SUN, {"math": 1, "tool": 1, "base": 1}, modules={"math": module(1)}, router={"load_interval": 0}
    )
    system.router.registry.workers["math-0"].modules.note_computed(OWN)
    tracer: Any = FakeTracer()
    system.router.service.reporter.tracing = Tracing(tracer)
    for _ in range(2):
        assert (await system.post("/generate", {**ASK, "model": "math"}))[0] == 200
    await system.quiet()
    legs = [span.attributes for span in tracer.spans if span.name == "prefill leg"]
    assert [leg["sun.module"] for leg in legs] == [module(1).revision] * 2
    assert [leg.get("sun.awaits_change") for leg in legs] == [True, None]


async def test_a_retry_has_spans_of_its_own_and_a_wait_is_one(start: Start) -> None:
    pytest.importorskip("opentelemetry")
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 2}, router={"max_requests": 1})
    tracer: Any = FakeTracer()
    system.router.service.reporter.tracing = Tracing(tracer)
    for worker in ("base-0", "base-1"):
        system[worker].fault = Fault(status=500)
    assert (await system.post("/generate", ASK))[0] == 502
    names = [s.name for s in tracer.spans]
    assert names.count("decode leg") == names.count("prefill leg") == 2
    assert "queue" not in names
    assert {s.attributes["sun.worker"] for s in tracer.spans if s.name == "decode leg"} == {"base-0", "base-1"}


async def test_answer_that_goes_on_elsewhere_has_a_span_for_its_silence(start: Start) -> None:
    pytest.importorskip("opentelemetry")
    # no probe finds the death before the stream does
    limits = {"probe_interval": PATIENCE_S}
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 2}, router=limits)
    tracer: Any = FakeTracer()
    system.router.service.reporter.tracing = Tracing(tracer)
    system["base-0"].fault = system["base-1"].fault = Fault(die_after=2, times=1)
    await system.events_of("/generate", {**ASK, "stream": True})
    await system.quiet()
    spans = {span.name: span for span in tracer.spans}
    silence, root = spans["sun.replay"], spans["request"]
    first, second = (span.attributes["sun.worker"] for span in tracer.spans if span.name == "decode leg")
    assert silence.attributes == {"sun.reason": "broken", "sun.worker": first, "sun.tokens": 2}
    assert {first, second} == {"base-0", "base-1"}
    assert root.start <= silence.start <= silence.ended <= root.ended


def test_traces_go_where_the_environment_says() -> None:
    assert load_tracing({}) is None
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401 - only whether it is there
    except ImportError:
        with pytest.raises(UserError, match=r"sun-sglang\[otel\]"):
            load_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})


# --- metrics --------------------------------------------------------------------------------------------------------


async def test_metrics_of_both_legs_and_the_hand_over(small: System) -> None:
    for _ in range(3):
        async with small.client.post("/generate", json={**ASK, "stream": True}) as r:
            await r.read()
    await small.quiet()
    for leg in ("prefill", "decode"):
        assert small.metric("sun_leg_seconds_count", task="math", leg=leg) == 3
        assert small.metric("sun_leg_in_flight", task="math", leg=leg) == 0
    async with small.client.get("/metrics") as r:
        assert 'sun_worker_tokens{worker="base-0"} 0.0' in await r.text()


async def test_what_is_refused_before_its_task_is_known_is_counted_and_no_text_of_a_clients_is_a_label(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUN_API_KEYS", json.dumps({"keys": [{"name": "a", "key": "k" * 16, "tasks": ["math"]}]}))
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"max_body_mb": 0.001}, wait=False)
    await wait_until(lambda: not system.router.registry.unserved())
    wrong: list[tuple[int, bytes, dict[str, str]]] = [
        (401, b"{}", {"Authorization": "Bearer wrong"}),
        (400, b"{", {}),
        (400, b'{"model":"math","text":3}', {}),
        (404, b'{"model":"x","text":"a"}', {}),
        (413, b'{"model":"math","text":"' + b"x" * 2000 + b'"}', {}),
        (400, b'{"model":"math","text":"a"}', {"Content-Type": "text/x"}),
        (404, b'{"model":"tool","text":"a"}', {}),
        (400, b'{"model":"math","input_ids":[50000]}', {}),
        (200, b'{"model":"math","input_ids":[5]}', {}),
    ]
    for expected, body, headers in wrong:
        known = {"Content-Type": "application/json", "X-API-Key": "k" * 16} | headers
        async with system.client.post("/generate", data=body, headers=known) as r:
            assert r.status == expected, await r.text()
    async with system.client.get("/generate", headers={"X-API-Key": "k" * 16}) as r:
        assert r.status == 405
    async with system.client.get("/nowhere") as r:
        assert r.status == 401, "what asks for no answer is not counted"
    ended = {(s.labels["task"], s.labels["outcome"]): s.value for s in samples(system, "sun_requests_total")}
    errors = {(s.labels["task"], s.labels["status"]): s.value for s in samples(system, "sun_problems_total")}
    unknown = {"400": 3, "401": 1, "404": 2, "405": 1, "413": 1}
    known_errors = {("math", "400"): 1}
    assert errors == known_errors | {("unknown", code): count for code, count in unknown.items()}
    assert ended == {("unknown", "refused"): 8, ("math", "refused"): 1, ("math", "ok"): 1}


async def test_a_client_that_leaves_before_its_request_is_read_is_counted(small: System) -> None:
    host, port = small.router.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    await wait_until(lambda: small.metric("sun_requests_total", task="unknown", outcome="disconnected") == 1)


def samples(system: System, name: str) -> Iterator[Any]:
    for family in system.router.metrics.registry.collect():
        yield from (s for s in family.samples if s.name == name)


def names_in(dashboard: Path) -> Iterator[str]:
    board = json.loads(dashboard.read_text())
    for variable in board["templating"]["list"]:
        yield from re.findall(r"sun_\w+", json.dumps(variable["query"]))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield from re.findall(r"sun_\w+", target["expr"])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d.stem)
def test_every_metric_that_a_dashboard_names_exists_and_every_metric_is_shown(dashboard: Path) -> None:
    exist = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        exist |= {family.name + suffix for suffix in suffixes}
    named = set(names_in(dashboard))
    assert named <= exist
    assert {n.removesuffix("_bucket") for n in named} == {
        n.removesuffix("_bucket") for n in exist if not n.endswith(("_sum", "_count"))
    }


def test_there_is_a_dashboard() -> None:
    assert [d.stem for d in DASHBOARDS] == ["router"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d.stem)
def test_labels_that_a_dashboard_groups_by_exist(dashboard: Path) -> None:
    labels = {f.name: set(m._labelnames) for m in _collectors() for f in m.describe()}
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            (name,) = re.findall(r"sun_\w+", target["expr"])
            known = labels[re.sub(r"_(total|bucket)$", "", name)] | {"le"}
            by = re.search(r"by \(([\w, ]+)\)", target["expr"])
            assert by is not None
            assert set(by[1].split(", ")) <= known
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known


def _collectors() -> list[Any]:
    return list(Metrics().registry._collector_to_names)


# --- sun status --watch ---------------------------------------------------------------------------------------------


def test_status_shows_it_live_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = DeploymentState(
        topology=tmp_path / "sun.yaml",
        pid=1,
        created=0.0,
        phase=Phase.READY,
        url="http://127.0.0.1:1",
        transfer="none",
        seconds_to_ready=1.0,
        detail="",
        processes=(),
    )
    looks = iter([[Deployment(tmp_path, state)], [Deployment(tmp_path, state)], []])
    monkeypatch.setattr(status, "_REFRESH", 0.0)
    monkeypatch.setattr(discovery, "running_deployments", lambda *_: next(looks))
    status.command(watch=True)
    assert "no deployment is running." in capsys.readouterr().out
