"""The `preStop` hook of a worker's container: return once the worker has had no requests for a while.

    python -m sun_sglang.kubernetes.in_pod.pre_stop SECONDS

A pod that is deleted gets its SIGTERM when this hook returns. By then discovery has seen the deletion and the router
has moved the answers of a decode worker elsewhere, or they have ended. A worker that is idle for a moment may get the
next request while the router does not know yet, so it has to be idle for `SETTLE_S`. After SECONDS the hook gives up;
the worker finishes what it can until its grace period ends, and the router repeats the rest on another worker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

from sun_sglang.kubernetes.in_pod.worker_http import get_json

SETTLE_S: Final = 5.0
"""Seconds without requests after which no more are expected."""

_POLL_S = 0.5
# as `router/health/load_report.py`
_LOADS = "/v1/loads?include=core"


def requests_in(loads: Any) -> int:
    """Return how many requests run or wait, by the answer of `GET /v1/loads`.

    Raises:
        ValueError: the answer has another form.
    """
    ranks = loads.get("loads") if isinstance(loads, dict) else None
    if not isinstance(ranks, list) or not all(isinstance(rank, dict) for rank in ranks):
        raise ValueError("no loads")
    return sum(int(rank.get(name) or 0) for rank in ranks for name in ("num_running_reqs", "num_waiting_reqs"))


def wait_idle(
    requests: Callable[[], int | None],
    most: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a worker has had no requests for `SETTLE_S`; return False after `most` seconds.

    Args:
        requests: returns how many it has; None where it does not answer, which counts as none if it does not change.
        most: seconds.
        clock: seconds on a clock that only advances.
        sleep: waits for some seconds.
    """
    began = clock()
    idle_since = began
    while True:
        if requests():
            idle_since = clock() + _POLL_S
        now = clock()
        if now - idle_since >= SETTLE_S:
            return True
        if now - began >= most:
            return False
        sleep(_POLL_S)


def _requests() -> int | None:
    try:
        return requests_in(get_json(_LOADS))
    except (OSError, ValueError):
        # it has ended, or does not answer: there is nothing to wait for that lasts
        return None


if __name__ == "__main__":
    # the exit code changes nothing: Kubernetes sends SIGTERM next
    wait_idle(_requests, float(sys.argv[1]))
