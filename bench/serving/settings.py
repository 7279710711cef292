"""The settings of a benchmark: with them, a result says everything that repeats it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.settings import Positive, WorkloadSettings
from sun_sglang.strict import Strict, first_invalid

MAX_CLIENT_LAG_MS = 25.0
"""How late this process may be, as the 99th percentile in the window, by default."""


class BenchSettings(Strict):
    """A benchmark.

    Attributes:
        workload: what is sent, and the lengths of warm-up and window.
        goodput: the service level objectives: milliseconds, or tokens a second; by AIPerf's names of metrics.
        request_timeout_seconds: from sending a request to the end of its answer.
        max_client_lag: the most milliseconds by which this process may be late (99th percentile in the window).
    """

    workload: WorkloadSettings
    goodput: dict[str, float] = Field(default_factory=dict)
    request_timeout_seconds: Positive = 600.0
    max_client_lag: Annotated[float, Field(gt=0)] = MAX_CLIENT_LAG_MS

    @property
    def window(self) -> Window:
        """The window as planned."""
        return Window(self.workload.warmup_duration, self.workload.duration)


def bench_settings(**values: Any) -> BenchSettings:
    """Return the settings of a benchmark.

    Raises:
        FlagError: a value is wrong; the message names the flag.
    """
    try:
        return BenchSettings(**values)
    except ValidationError as e:
        invalid = first_invalid(e, BenchSettings, show_value=True)
        raise FlagError(invalid.path[0], invalid.message) from e
