"""Service level objectives: the limits within which an answer counts for the goodput."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics import latency
from sun_sglang.strict import listed

_LATENCIES: Mapping[str, Callable[[RequestRecord], float | None]] = MappingProxyType(
    {
        "time_to_first_token": latency.time_to_first_token,
        "inter_token_latency": latency.inter_token_latency,
        "request_latency": latency.request_latency,
        "scheduled_time_to_first_token": latency.scheduled_time_to_first_token,
        "scheduled_request_latency": latency.scheduled_request_latency,
    }
)
_SPEED = "output_token_throughput_per_user"

Objectives = Mapping[str, float]
"""The limit of each metric, by name: most milliseconds, or least tokens a second for a user."""


def parse_goodput(text: str, offered: Iterable[str] = (*_LATENCIES, _SPEED)) -> dict[str, float]:
    """Return the objectives of `--goodput "time_to_first_token:500 inter_token_latency:50"`.

    Args:
        text: the value of the flag.
        offered: the metrics that the error for an unknown one lists.

    Raises:
        FlagError: a metric is unknown or named twice, or a limit is no positive number.
    """
    objectives: dict[str, float] = {}
    for part in text.replace(",", " ").split():
        name, _, limit = part.partition(":")
        if name not in _LATENCIES and name != _SPEED:
            raise FlagError("goodput", f"unknown metric `{name}`; known: {listed(offered)}")
        if name in objectives:
            raise FlagError("goodput", f"`{name}` is named twice")
        try:
            value = float(limit)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise FlagError("goodput", f"`{part}`: write METRIC:LIMIT with a positive number, such as `{name}:500`")
        objectives[name] = value
    if not objectives:
        raise FlagError("goodput", "no objective; write METRIC:LIMIT, such as `time_to_first_token:500`")
    return objectives


def is_good(record: RequestRecord, objectives: Objectives) -> bool:
    """Return whether an answer is within every objective.

    A metric that an answer does not have is within its limit: an answer of one token has no time between tokens.
    """
    for name, limit in objectives.items():
        if name == _SPEED:
            value = latency.output_token_throughput_per_user(record)
            if value is not None and value < limit:
                return False
        else:
            value = _LATENCIES[name](record)
            if value is not None and value > limit:
                return False
    return True
