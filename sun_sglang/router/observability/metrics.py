"""What the router counts, in Prometheus' format. One instance a router, with its own registry."""

from __future__ import annotations

from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sun_sglang.router.protocol.worker_replies import TokenCounts

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)

M = TypeVar("M", Counter, Gauge, Histogram)


class Family(Generic[M]):
    """A metric by its labels. Finding a labelled metric in the library costs more than counting with it."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        """The metric with these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child

    def clear(self) -> None:
        """Forget all labels."""
        self._metric.clear()
        self._children.clear()


class Metrics:
    """Counters of one router."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Family(Counter("sun_requests", "Requests by how they ended.", ["task", "outcome"], registry=r))
        self.problems = Family(
            Counter("sun_problems", "Requests answered with an error, by HTTP status.", ["task", "status"], registry=r)
        )
        self.seconds = Family(
            Histogram("sun_request_seconds", "From arrival to the last byte.", ["task"], buckets=_SECONDS, registry=r)
        )
        self.in_flight = Family(Gauge("sun_in_flight", "Requests that have no end yet.", ["task"], registry=r))
        self.ttft = Family(
            Histogram(
                "sun_time_to_first_token_seconds",
                "From arrival to the first event of a streamed answer.",
                ["task"],
                buckets=_SECONDS,
                registry=r,
            )
        )
        self.itl = Family(
            Histogram(
                "sun_inter_token_seconds",
                "Mean time between the tokens of a streamed answer, one observation an answer.",
                ["task"],
                buckets=_TOKEN_SECONDS,
                registry=r,
            )
        )
        self.tokens = Family(
            Counter("sun_tokens", "Tokens by kind: prompt, cached, completion.", ["task", "kind"], registry=r)
        )
        self.legs = Family(
            Counter("sun_leg_requests", "Legs by how they ended.", ["task", "leg", "outcome"], registry=r)
        )
        self.leg_in_flight = Family(Gauge("sun_leg_in_flight", "Legs under way.", ["task", "leg"], registry=r))
        self.leg_seconds = Family(
            Histogram("sun_leg_seconds", "From dispatch to a leg's end.", ["task", "leg"], buckets=_SECONDS, registry=r)
        )
        self.hand_over = Family(
            Histogram(
                "sun_hand_over_seconds",
                "From the prefill leg's end to the first event of the streamed answer.",
                ["task"],
                buckets=_SECONDS,
                registry=r,
            )
        )
        self.queued = Family(Gauge("sun_queued", "Answers that wait for their turn.", ["task"], registry=r))
        self.queue_seconds = Family(
            Histogram("sun_queue_seconds", "Wait of those that waited.", ["task"], buckets=_SECONDS, registry=r)
        )
        self.turned_away = Family(
            Counter("sun_turned_away", "Requests answered with 429: full, timeout, rate.", ["task", "why"], registry=r)
        )
        self.retries = Family(
            Counter("sun_retries", "Second attempts, by the leg at fault.", ["task", "leg"], registry=r)
        )
        self.ejections = Family(
            Counter("sun_ejections", "Times that a worker left the rotation.", ["worker"], registry=r)
        )
        self.canaries = Family(
            Counter(
                "sun_canaries",
                "Canary requests between two pools, by outcome.",
                ["prefill_pool", "decode_pool", "outcome"],
                registry=r,
            )
        )
        self.workers = Family(
            Gauge(
                "sun_worker_state", "1 for the state a worker is in.", ["worker", "pool", "role", "state"], registry=r
            )
        )

        self.log_lines_lost = Family(
            Counter("sun_log_lines_lost", "Log lines lost: a write failed, or blocked.", ["why"], registry=r)
        )
        self.connections = Family(
            Gauge("sun_connections", "Open client connections: waiting, busy, handshake.", ["state"], registry=r)
        )
        self.connections_ended = Family(
            Counter(
                "sun_connections_ended",
                "Client connections ended by the router: header, body, full, no_descriptor.",
                ["why"],
                registry=r,
            )
        )
        self.worker_in_flight = Family(
            Gauge(
                "sun_worker_in_flight", "Requests on a worker, as far as the router can tell.", ["worker"], registry=r
            )
        )
        self.worker_tokens = Family(
            Gauge("sun_worker_tokens", "Outstanding work on a worker, in tokens, likewise.", ["worker"], registry=r)
        )

    def count_tokens(self, task: str, tokens: TokenCounts) -> None:
        """Add an answer's token counts."""
        for kind, count in zip(tokens._fields, tokens, strict=True):
            if count:
                self.tokens.labels(task, kind).inc(count)
