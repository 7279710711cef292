"""The router's metrics, in Prometheus' format. Each router has one instance with a registry of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sun_sglang.router.protocol.worker_replies import TokenCounts

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)

M = TypeVar("M", Counter, Gauge, Histogram)


class Family(Generic[M]):
    """A metric with labels. Caches its children, since the library's lookup of a child costs more than counting."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        """Return the child with these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child

    def clear(self) -> None:
        """Remove all children."""
        self._metric.clear()
        self._children.clear()


class WeightsMetrics(NamedTuple):
    """The metrics of one kind of weights of tasks.

    Attributes:
        loads: loads into a worker.
        load_seconds: their time.
        canaries: checks of their effect.
    """

    loads: Family[Counter]
    load_seconds: Family[Histogram]
    canaries: Family[Counter]


class Metrics:
    """Every metric of one router.

    Gauges that depend on current state are set by `api.metrics_page` when the page is requested.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("sun_requests", "Requests by outcome.", "task", "outcome")
        self.problems = self._counter(
            "sun_problems", "Requests answered with an error, by HTTP status.", "task", "status"
        )
        self.seconds = self._histogram("sun_request_seconds", "From arrival to the last byte.", "task")
        self.in_flight = self._gauge("sun_in_flight", "Requests that have not ended.", "task")
        self.ttft = self._histogram(
            "sun_time_to_first_token_seconds", "From arrival to the first event of a streamed answer.", "task"
        )
        self.itl = self._histogram(
            "sun_inter_token_seconds",
            "Mean time between the tokens of a streamed answer, one observation for each answer.",
            "task",
            buckets=_TOKEN_SECONDS,
        )
        self.tokens = self._counter("sun_tokens", "Tokens by kind: prompt, cached, completion.", "task", "kind")
        self.legs = self._counter("sun_leg_requests", "Legs by outcome.", "task", "leg", "outcome")
        self.leg_in_flight = self._gauge("sun_leg_in_flight", "Legs that have not ended.", "task", "leg")
        self.leg_seconds = self._histogram("sun_leg_seconds", "From dispatch to the end of a leg.", "task", "leg")
        self.replays = self._counter(
            "sun_replays",
            "Answers that went on elsewhere, by reason: broken, gone, stalled, moved.",
            "task",
            "reason",
        )
        self.replayed_tokens = self._counter(
            "sun_replayed_tokens", "Output tokens that another decode worker repeated.", "task"
        )
        self.replay_silence = self._histogram(
            "sun_replay_silence_seconds", "From a stream's last event before a loss to the next one.", "task"
        )
        self.hand_over = self._histogram(
            "sun_hand_over_seconds", "From the end of the prefill leg to the first event of a streamed answer.", "task"
        )
        self.queued = self._gauge("sun_queued", "Answers that wait for a slot.", "task")
        self.queue_seconds = self._histogram("sun_queue_seconds", "Waiting time of answers that waited.", "task")
        self.turned_away = self._counter(
            "sun_turned_away", "Requests answered with 429, by reason: full, timeout, rate.", "task", "why"
        )
        self.retries = self._counter("sun_retries", "Second attempts, by the leg at fault.", "task", "leg")
        self.ejections = self._counter("sun_ejections", "Times that a worker left the rotation.", "worker")
        self.canaries = self._counter(
            "sun_canaries",
            "Canary requests between two pools, by outcome.",
            *("prefill_pool", "decode_pool", "outcome"),
        )
        self.weights: Mapping[str, WeightsMetrics] = {kind: self._weights(kind) for kind in ("adapter", "module")}
        self.adapter_cold_loads = self._counter(
            "sun_adapter_cold_loads", "Copies of a task's adapter into a slot, as this process read them.", "task"
        )
        self.adapter_cold_seconds = self._counter(
            "sun_adapter_cold_load_seconds", "Time that prompts waited for these copies.", "task"
        )
        self.module_changes = self._counter(
            "sun_module_changes", "Changes of a worker between modules, as this process read them.", "worker"
        )
        self.module_change_seconds = self._counter(
            "sun_module_change_seconds", "Time of these changes, in which the worker ran no batch.", "worker"
        )
        self.module_requests = self._gauge(
            "sun_module_requests",
            "Requests of this process by module (`own`: the pool's model) whose prompt is not computed yet.",
            *("worker", "module"),
        )
        self.module_queued = self._gauge(
            "sun_module_queued",
            "Requests of all senders that waited for a batch, by the worker's report.",
            "worker",
            "module",
        )
        self.module_host_bytes = self._gauge(
            "sun_module_host_bytes", "Bytes of modules in a worker's host memory, by its report.", "worker"
        )
        self.workers = self._gauge(
            "sun_worker_state", "1 for the current state of a worker.", "worker", "pool", "role", "state"
        )
        self.worker_in_flight = self._gauge(
            "sun_worker_in_flight", "Requests on a worker: the router's own and other clients'.", "worker"
        )
        self.worker_tokens = self._gauge(
            "sun_worker_tokens", "Outstanding tokens on a worker: the router's own and other clients'.", "worker"
        )
        self.wanted_workers = self._gauge(
            "sun_pool_wanted_workers", "Workers that a pool that sizes itself is to have.", "pool"
        )
        self.offered_answers = self._counter(
            "sun_offered_answers", "Answers that clients asked for, refused ones included, by decode pool.", "pool"
        )
        self.offered_tokens = self._counter("sun_offered_tokens", "Their expected output tokens, at arrival.", "pool")
        self.offered_context_tokens = self._counter(
            "sun_offered_context_tokens",
            "The context that their decode steps are expected to read, in tokens, at arrival.",
            "pool",
        )
        self.offered_context_squares = self._counter(
            "sun_offered_context_squares", "The same sum over the square of the context, for its variation.", "pool"
        )
        self.log_lines_lost = self._counter(
            "sun_log_lines_lost", "Lost log lines, by reason: failed (a write), blocked (a full queue).", "why"
        )
        self.connections = self._gauge(
            "sun_connections", "Open client connections by state: waiting, busy, handshake.", "state"
        )
        self.connections_ended = self._counter(
            "sun_connections_ended",
            "Client connections that the router ended: header, header_size, no_http, body, full, no_descriptor.",
            "why",
        )

    def count_tokens(self, task: str, tokens: TokenCounts) -> None:
        """Add the token counts of an answer."""
        for kind, count in zip(tokens._fields, tokens, strict=True):
            if count:
                self.tokens.labels(task, kind).inc(count)

    def _weights(self, kind: str) -> WeightsMetrics:
        return WeightsMetrics(
            loads=self._counter(
                f"sun_{kind}_loads", f"Loads of {kind}s into a worker, by outcome: ok, failed.", "worker", "outcome"
            ),
            load_seconds=self._histogram(
                f"sun_{kind}_load_seconds", "From the request for a load to the worker's reply.", "worker"
            ),
            canaries=self._counter(
                f"sun_{kind}_canaries", f"Canaries of {kind}s on a worker, by outcome: ok, failed.", "worker", "outcome"
            ),
        )

    def _counter(self, name: str, text: str, *labels: str) -> Family[Counter]:
        return Family(Counter(name, text, labels, registry=self.registry))

    def _gauge(self, name: str, text: str, *labels: str) -> Family[Gauge]:
        return Family(Gauge(name, text, labels, registry=self.registry))

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Family[Histogram]:
        return Family(Histogram(name, text, labels, buckets=buckets, registry=self.registry))
