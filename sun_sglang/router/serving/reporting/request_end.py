"""Report an ended request: counts, a log line, a trace."""

from __future__ import annotations

from collections.abc import Mapping

from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_id import current_request_id
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.serving.reporting.tracing import EndedRequest, Tracing
from sun_sglang.router.task_weights.kind import kind_of

_FAILURES = frozenset({"failed", "unavailable", "overdue"})


class RequestEndReporter:
    """Reports ended requests.

    Args:
        metrics: counts them.
        log: one line for each failed request; for every request if `log_all`.
        log_all: see above.
        tracing: records spans; None for no traces.

    Attributes:
        tracing: see above.
    """

    def __init__(self, metrics: Metrics, log: Log, *, log_all: bool, tracing: Tracing | None) -> None:
        self.tracing = tracing
        self._metrics = metrics
        self._log = log
        self._log_all = log_all

    def report(
        self, outcome: str, endpoint: Endpoint, tickets: tuple[Ticket, ...], headers: Mapping[str, str], now: float
    ) -> None:
        """Report one request.

        Args:
            outcome: label of the metrics: `ok`, `aborted`, `disconnected`, `stalled`, or one of `request_outcome`.
            endpoint: its path.
            tickets: one for each answer.
            headers: the client's, which may name the trace that the request belongs to.
            now: loop time, seconds.
        """
        first = tickets[0]
        self._metrics.requests.labels(first.task, outcome).inc()
        self._metrics.seconds.labels(first.task).observe(now - first.arrived)
        if self._log_all or outcome in _FAILURES:
            workers = [[w.name for w in attempt.pair] for ticket in tickets for attempt in ticket.tries]
            self._log.event(
                "request",
                task=first.task,
                path=endpoint,
                outcome=outcome,
                seconds=round(now - first.arrived, 4),
                queued=round(first.queued, 4),
                answers=len(tickets),
                workers=workers,
                replays=sum(len(ticket.replays) for ticket in tickets),
                **_weights(tickets),
                key=first.owner,
            )
        if self.tracing is not None:
            self.tracing.record(EndedRequest(current_request_id.get(), endpoint, outcome, tickets, now, headers), now)


def _weights(tickets: tuple[Ticket, ...]) -> Mapping[str, str]:
    """Return the names of the adapters and of the modules that prefilled the answers; empty for none."""
    names: dict[str, list[str]] = {"adapter": [], "module": []}
    last = (ticket.tries[-1].pair.weights for ticket in tickets if ticket.tries)
    for weights in dict.fromkeys(last):
        if weights is not None:
            names[kind_of(weights)].append(weights.name)
    return {kind: ", ".join(found) for kind, found in names.items()}


def request_outcome(error: ApiError) -> str:
    """Return the label of the metrics for a request that ended with an error."""
    if error.status < 500:
        return "refused"
    return {503: "unavailable", 504: "overdue"}.get(error.status, "failed")
