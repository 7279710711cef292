"""The settings of a benchmark: with them, a result says everything that repeats it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.load.workload.settings import Positive, WorkloadSettings, workload_settings
from sun_sglang.strict import Strict, first_invalid, listed

MAX_CLIENT_LAG_MS = 25.0
"""How late this process may be, as the 99th percentile in the window, by default."""

Swept = int | float | str
"""One value of a setting that has a list of values."""

SWEPT = ("request_rate", "concurrency", "zipf", "isl", "osl")
"""The settings of the load that may have a list of values."""


class BenchSettings(Strict):
    """A benchmark.

    Attributes:
        workload: what is sent, and the lengths of warm-up and window. At a setting with a list of values: the first.
        goodput: the service level objectives: milliseconds, or tokens a second; by AIPerf's names of metrics.
        request_timeout_seconds: from sending a request to the end of its answer.
        max_client_lag: the most milliseconds by which this process may be late (99th percentile in the window).
        num_profile_runs: repetitions of each point.
        sweep: settings that have a list of values; every combination is a point.
        find_max_rate: search the highest rate at which enough requests are within the objectives.
        goodput_ratio: the share of requests that is enough.
        cores: the cores of the processes that are started, and of this one, by role; a role without an entry uses all.
    """

    workload: WorkloadSettings
    goodput: dict[str, float] = Field(default_factory=dict)
    request_timeout_seconds: Positive = 600.0
    max_client_lag: Annotated[float, Field(gt=0)] = MAX_CLIENT_LAG_MS
    num_profile_runs: Annotated[int, Field(gt=0, le=1_000)] = 1
    sweep: dict[str, Annotated[tuple[Swept, ...], Field(min_length=2)]] = Field(default_factory=dict)
    find_max_rate: bool = False
    goodput_ratio: Annotated[float, Field(gt=0, le=1)] = 0.95
    cores: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @field_validator("sweep")
    @classmethod
    def _may_have_lists(cls, sweep: dict[str, tuple[Swept, ...]]) -> dict[str, tuple[Swept, ...]]:
        for name in sweep:
            if name not in SWEPT:
                raise ValueError(f"`{name}` has one value; lists: {listed(SWEPT)}")
        return sweep

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


def settings_at(settings: BenchSettings, values: Mapping[str, Swept]) -> BenchSettings:
    """Return the settings of one point of a grid.

    Args:
        settings: the settings of the benchmark.
        values: the values of the point by name of the setting.

    Raises:
        BenchError: a value is wrong; the message names the flag.
    """
    if not values:
        return settings
    workload = workload_settings(**{**dict(settings.workload), **values})
    return settings.model_copy(update={"workload": workload})
