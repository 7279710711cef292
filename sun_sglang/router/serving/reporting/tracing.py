"""Trace requests with OpenTelemetry: the wait, the two legs, and the KV transfer between them.

Spans are made after a request has ended, from times that are kept in any case, so a router without an exporter does no
work for them. OpenTelemetry is optional: the extra `otel`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sun_sglang.errors import UserError
from sun_sglang.router.dispatch.attempt import Attempt, Ticket
from sun_sglang.router.task_weights.kind import kind_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

_CONFIGURED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_ERRORS = frozenset({"failed", "unavailable", "overdue"})


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """A request that has ended.

    Attributes:
        request_id: as in the logs.
        endpoint: its path.
        outcome: as in the metrics.
        tickets: one for each answer.
        ended: loop time, seconds.
        headers: the client's, which may name the trace that the request belongs to.
    """

    request_id: str
    endpoint: str
    outcome: str
    tickets: Sequence[Ticket]
    ended: float
    headers: Mapping[str, str]


class Tracing:
    """Makes spans of ended requests."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    def record(self, request: EndedRequest, now: float) -> None:
        """Make the spans of a request. `now` is loop time in seconds, which dates the spans."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        offset = time.time() - now
        first = request.tickets[0]
        lower = {name.lower(): value for name, value in request.headers.items()}
        context = self._propagator.extract(lower)
        attributes = {
            "sun.task": first.task,
            "sun.outcome": request.outcome,
            "sun.request_id": request.request_id,
            "http.route": request.endpoint,
        }
        root = self._tracer.start_span(
            "request", context, SpanKind.SERVER, attributes=attributes, start_time=_ns(first.arrived + offset)
        )
        inside = set_span_in_context(root)
        if first.queued:
            self._span("queue", inside, first.arrived + offset, first.arrived + first.queued + offset)
        for ticket in request.tickets:
            for attempt in ticket.tries:
                times = attempt.times
                ended = times.ended if times.ended is not None else request.ended
                handed = times.prefilled if times.prefilled is not None else ended
                names = {"sun.rid": attempt.rid}
                begun = times.sent + offset
                of_prefill = names | {"sun.worker": attempt.pair.prefill.name} | _of_weights(attempt)
                self._span("prefill leg", inside, begun, handed + offset, of_prefill)
                if attempt.request.stream and times.prefilled is not None and times.first is not None:
                    arrived = max(times.prefilled, times.first)
                    self._span("transfer", inside, times.prefilled + offset, arrived + offset, names)
                self._span(
                    "decode leg", inside, begun, ended + offset, names | {"sun.worker": attempt.pair.decode.name}
                )
            for replay in ticket.replays:
                of_replay = {"sun.reason": replay.loss, "sun.worker": replay.worker, "sun.tokens": replay.tokens}
                resumed = request.ended if replay.resumed is None else replay.resumed
                self._span("sun.replay", inside, replay.began + offset, resumed + offset, of_replay)
        if request.outcome in _ERRORS:
            root.set_status(StatusCode.ERROR)
        root.end(_ns(request.ended + offset))

    def _span(
        self, name: str, inside: Context, start: float, end: float, attributes: dict[str, Any] | None = None
    ) -> None:
        self._tracer.start_span(name, inside, attributes=attributes, start_time=_ns(start)).end(_ns(end))


def _of_weights(attempt: Attempt) -> dict[str, str | bool]:
    """Return the attributes that name a task's own weights, and tell whether they had to be loaded first.

    A change of the module is a part of the prefill leg's time. The router knows before it sends the request whether the
    worker has another module loaded; the worker reports no time for a single request.
    """
    weights = attempt.pair.weights
    attributes: dict[str, str | bool] = {} if weights is None else {f"sun.{kind_of(weights)}": weights.name}
    if attempt.awaits_change:
        attributes["sun.awaits_change"] = True
    return attributes


def load_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Return tracing to the exporter that OpenTelemetry's own variables name; None if they name none.

    Raises:
        UserError: they name an exporter whose packages are not installed.
    """
    named = next((name for name in _CONFIGURED if environment.get(name)), None)
    if named is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # type: ignore[import-not-found,unused-ignore]  # the extra `otel`
        from opentelemetry.sdk.resources import Resource  # type: ignore[import-not-found,unused-ignore]  # the extra `otel`
        from opentelemetry.sdk.trace import TracerProvider  # type: ignore[import-not-found,unused-ignore]  # the extra `otel`
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # type: ignore[import-not-found,unused-ignore]  # the extra `otel`
    except ImportError as e:
        raise UserError(f"{named} is set, and {e.name} is not installed: pip install 'sun-sglang[otel]'") from e
    name = environment.get("OTEL_SERVICE_NAME", "sun-router")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("sun_sglang.router"))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
