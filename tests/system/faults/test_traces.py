"""Traces as a collector gets them: OpenTelemetry's SDK and OTLP exporter in a router process, over emulated workers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from sun_sglang.bench.polling import wait_until
from tests.support.ports import PORTS
from tests.system.faults.cluster import PATIENCE_S, Cluster
from tests.system.faults.conftest import Start

_MISSING = "the extra `otel` is not installed"
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=_MISSING)
otlp = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=_MISSING)

# in nanoseconds: that the spans' times are times of day
MINUTE = 60 * 1_000_000_000


class Collector:
    """Takes OTLP over HTTP and keeps every span."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.url = ""

    async def take(self, http: web.Request) -> web.Response:
        assert http.content_type == "application/x-protobuf"
        for resource in otlp.ExportTraceServiceRequest.FromString(await http.read()).resource_spans:
            self.services.add(attributes(resource.resource)["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(body=otlp.ExportTraceServiceResponse().SerializeToString())

    def trace(self, request_id: str) -> dict[str, list[Any]]:
        """Return the spans of the trace of a request, by their names; its own is `request`."""
        roots = [s for s in self.spans if attributes(s).get("sun.request_id") == request_id]
        found: dict[str, list[Any]] = {}
        for span in self.spans:
            if roots and span.trace_id == roots[0].trace_id:
                found.setdefault(span.name, []).append(span)
        return found


def attributes(of: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in of.attributes}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Yield a collector, and an environment that sends traces to it without much delay."""
    collector = Collector()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = "http://{}:{}".format(*runner.addresses[0])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield collector
    await runner.cleanup()


async def ask(cluster: Cluster, request_id: str, *, status: int = 200, stream: bool = True, **headers: str) -> None:
    """Return an answer of a task, read to its end."""
    body = cluster.body(tokens=8, stream=stream, prompt=[len(request_id), 2, 3])
    named = {"X-Request-Id": request_id, **headers}
    async with cluster.client.post("/generate", json=body, headers=named) as reply:
        assert reply.status == status, await reply.text()
        await reply.read()


async def counts(cluster: Cluster, metric: str, value: float) -> bool:
    return (await cluster.metrics()).get(metric) == value


async def test_the_wait_the_legs_and_the_transfer_arrive_at_a_collector(start: Start, collector: Collector) -> None:
    cluster = await start({"math": 1, "base": 1}, router={"max_requests": 1})
    before = time.time_ns()
    await cluster.fault("base-0", "hold", token=0)
    asked = [asyncio.create_task(ask(cluster, "r" * (i + 1))) for i in range(3)]
    # one at a time, so that all but one must wait, and that one until its prefill worker has reported its end
    await wait_until(lambda: counts(cluster, 'sun_queued{task="math"}', 2))
    await wait_until(lambda: counts(cluster, 'sun_leg_requests_total{leg="prefill",outcome="ok",task="math"}', 1))
    await cluster.fault("base-0", "clear")
    await asyncio.gather(*asked)
    await ask(cluster, "whole", stream=False)
    after = time.time_ns()
    cluster.router.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(cluster.router.wait, PATIENCE_S) == 0, "what is left is sent before it ends"
    assert collector.services == {"sun-router"}
    waits = transfers = 0
    # the time of the first token of an unstreamed answer is unknown
    assert collector.trace("whole").keys() == {"request", "prefill leg", "decode leg"}
    for request_id in ("r", "rr", "rrr"):
        trace = collector.trace(request_id)
        (root,), (prefill,), (decode,) = (trace.pop(name) for name in ("request", "prefill leg", "decode leg"))
        queue = trace.pop("queue", [])
        # there is none where the first token came before the prefill worker reported its end
        transfer = trace.pop("transfer", [])
        assert trace == {}
        assert root.parent_span_id == b""
        assert attributes(root) == {
            "sun.task": "math",
            "sun.outcome": "ok",
            "sun.request_id": request_id,
            "http.route": "/generate",
        }
        for span in (prefill, decode, *transfer, *queue):
            assert span.parent_span_id == root.span_id
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert before - MINUTE < root.start_time_unix_nano < root.end_time_unix_nano < after + MINUTE
        assert attributes(prefill)["sun.worker"] == "math-0"
        assert attributes(decode)["sun.worker"] == "base-0"
        assert len({attributes(span)["sun.rid"] for span in (prefill, decode, *transfer)}) == 1
        assert prefill.start_time_unix_nano == decode.start_time_unix_nano, "both legs are sent at once"
        for span in transfer:
            transfers += 1
            assert span.start_time_unix_nano == prefill.end_time_unix_nano
        for span in queue:
            waits += 1
            assert span.start_time_unix_nano == root.start_time_unix_nano
            assert span.end_time_unix_nano <= prefill.start_time_unix_nano
    assert waits == 2
    assert transfers >= 1


async def test_a_trace_of_the_clients_is_followed_and_shows_a_retry_and_a_failure(
    start: Start, collector: Collector
) -> None:
    cluster = await start({"math": 2, "base": 1})
    await cluster.fault("math-0", "status")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for request_id in ("one", "three"):
        await ask(cluster, request_id, traceparent=parent)
    retries = (await cluster.metrics())['sun_retries_total{leg="prefill",task="math"}']
    assert retries in (1, 2), "one of two requests, at least, goes to the worker that fails first"
    await cluster.fault("math-1", "status")
    await ask(cluster, "failed", status=502)

    # spans are sent in batches, which may part a trace
    async def all_here() -> bool:
        followed, failed = collector.trace("one"), collector.trace("failed")
        legs = len(followed.get("prefill leg", ()))
        return bool(len(followed.get("request", ())) == 2 and legs >= 2 + retries and failed.get("request"))

    await wait_until(all_here)
    followed = collector.trace("one")
    assert {root.parent_span_id.hex() for root in followed["request"]} == {"00f067aa0ba902b7"}
    assert {root.trace_id.hex() for root in followed["request"]} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    workers = [attributes(leg)["sun.worker"] for leg in followed["prefill leg"]]
    assert set(workers) == {"math-0", "math-1"}
    assert len(workers) == 2 + retries, "both requests are of the client's one trace"
    assert [root.status.code for root in followed["request"]] == [0, 0]
    (failed,) = collector.trace("failed")["request"]
    assert failed.status.code == 2, "an error, in OpenTelemetry's terms"
    assert attributes(failed)["sun.outcome"] == "failed"
    await cluster.settled()


async def test_a_collector_that_is_gone_costs_no_request_and_is_told_of(
    start: Start, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    cluster = await start({"math": 1, "base": 1})
    for _ in range(3):
        await cluster.exact(stream=True)

    async def told() -> bool:
        return "opentelemetry.exporter" in cluster.log

    await wait_until(told)
    cluster.router.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(cluster.router.wait, PATIENCE_S) == 0


@pytest.fixture
def unused_port() -> int:
    return next(PORTS)
