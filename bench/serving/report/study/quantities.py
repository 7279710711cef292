"""The quantities that a page shows: the metric of a result, its name for a reader, and its unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from sun_sglang.bench.load.metrics.interval import Interval


class Form(Enum):
    """How a number is written."""

    NUMBER = "number"
    PERCENT = "percent"
    COUNT = "count"


@dataclass(frozen=True)
class Quantity:
    """A quantity.

    Attributes:
        metric: its name in the summary of a result.
        label: its name for a reader.
        unit: its unit; empty for a share.
        form: how it is written.
    """

    metric: str
    label: str
    unit: str
    form: Form = Form.NUMBER

    @property
    def title(self) -> str:
        """The name with the unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        """Return a value as text, without its unit."""
        if self.form is Form.PERCENT:
            return f"{100 * value:.1f} %"
        return f"{value:,.0f}" if self.form is Form.COUNT else number_text(value)


THROUGHPUT = Quantity("output_token_throughput", "Output tokens, all workers", "tokens/s")
PER_WORKER = Quantity("output_token_throughput_per_worker", "Output tokens, per worker", "tokens/s")
PER_DECODE_WORKER = Quantity(
    "output_token_throughput_per_decode_worker", "Output tokens, per decode worker", "tokens/s"
)
INTERACTIVITY = Quantity("interactivity", "Interactivity", "tokens/s per user")
TPOT = Quantity("inter_token_latency.avg", "TPOT, mean", "ms")
TPOT_P95 = Quantity("inter_token_latency.p95", "TPOT, p95", "ms")
TTFT = Quantity("time_to_first_token.p50", "Time to first token, p50", "ms")
TTFT_P95 = Quantity("time_to_first_token.p95", "Time to first token, p95", "ms")
GAP_P99 = Quantity("inter_chunk_latency.p99", "Gap between chunks, p99", "ms")
LATENCY = Quantity("request_latency.p50", "Request latency, p50", "ms")
LATENCY_P95 = Quantity("request_latency.p95", "Request latency, p95", "ms")
DUE_LATENCY_P95 = Quantity("scheduled_request_latency.p95", "Latency from when it was due, p95", "ms")
SESSION_LATENCY = Quantity("sessions.session_latency.p50", "Session latency, p50", "ms")
SESSION_LATENCY_P95 = Quantity("sessions.session_latency.p95", "Session latency, p95", "ms")
SESSION_RATE = Quantity("sessions.started_session_rate", "Started sessions", "sessions/s")
SESSIONS = Quantity("sessions.session_throughput", "Completed sessions", "sessions/s")
REQUESTS = Quantity("request_throughput", "Completed requests", "requests/s")
ACHIEVED = Quantity("achieved_ratio", "Achieved / offered", "", Form.PERCENT)
GOODPUT = Quantity("goodput", "Goodput (within the objectives)", "requests/s")
GOOD_RATIO = Quantity("good_request_ratio", "Requests within the objectives", "", Form.PERCENT)
HITS = Quantity("cache_hit_ratio", "Prompt tokens from a cache", "", Form.PERCENT)
FAIRNESS = Quantity("fairness", "Fairness over tasks (Jain, 1 is fair)", "")
MAX_RATE = Quantity("max_rate", "Highest rate within the objectives", "requests/s")


def number_text(value: float) -> str:
    """Return a number with three significant digits, or whole where it is large; 0 is `0`."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value else "0"


def interval_text(interval: Interval, quantity: Quantity) -> str:
    """Return the ends of an interval, such as `35.9 to 44.6`; empty where one repetition has none."""
    if interval.repetitions < 2:
        return ""
    low = quantity.text(interval.low)
    return f"{low.removesuffix(' %')} to {quantity.text(interval.high)}"


def ratio_text(ratio: Interval) -> str:
    """Return a ratio, such as `2.27x`."""
    return f"{number_text(ratio.value)}x"


def ratio_interval_text(ratio: Interval) -> str:
    """Return the ends of the interval of a ratio; empty where one repetition has none."""
    return f"{number_text(ratio.low)} to {number_text(ratio.high)}" if ratio.repetitions > 1 else ""


def with_numbers(quantities: Iterable[Quantity], metrics: Iterable[str]) -> tuple[Quantity, ...]:
    """Return those quantities that some results have.

    Args:
        quantities: quantities, in their order.
        metrics: the metrics that some result has.
    """
    known = set(metrics)
    return tuple(quantity for quantity in quantities if quantity.metric in known)
