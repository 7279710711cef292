"""What an emulated worker can be told to do wrong. Pure: whoever is at the place of a fault asks whether it is on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from sun_sglang.strict import Strict

FaultKind = Literal[
    "refuse",
    "hang",
    "die",
    "die_at_token",
    "die_in_prefill",
    "blackhole_bootstrap",
    "close_bootstrap",
    "slow",
    "hold",
    "lie",
    "sick",
    "status",
    "abort",
    "unhooked",
    "clear",
]


class Fault(Strict):
    """One fault.

    Attributes:
        kind: `refuse` closes the listening socket and every connection; `hang` accepts and never answers, whatever is
            asked; `die` ends the process at once, `die_at_token` when the answer of a request reaches `token`,
            `die_in_prefill` half-way through a prefill batch; `blackhole_bootstrap` accepts decode workers and never
            answers them; `close_bootstrap` closes that port for good; `slow` takes `factor` times as long; `hold` gives
            an answer that has `token` tokens no more of them, on a decode worker; `lie` says that it is healthy and
            answers no request; `sick` says that it is not healthy and serves; `status` answers requests with `status`;
            `abort` answers them with an abort inside a 200; `unhooked` says in its card that a hook did not take;
            `clear` ends whatever was on.
        token: for `die_at_token`, counted from 1, and for `hold`.
        factor: for `slow`.
        status: for `status`.
        times: how many requests `hang`, `lie`, `status`, `abort` and `die_at_token` meet; then it is over.
        seconds: after which it is over by itself; a `refuse` cannot be cleared otherwise.
        spare: requests whose `extra_key` contains this are left alone, such as `sun-canary`.
    """

    kind: FaultKind
    token: int = Field(default=1, ge=0)
    factor: float = Field(default=10.0, gt=0)
    status: int = Field(default=500, ge=400, le=599)
    times: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    spare: str = ""

    def spares(self, extra_key: object) -> bool:
        """Whether a request with this `extra_key` is left alone."""
        return bool(self.spare) and self.spare in str(extra_key or "")


class FaultInjector:
    """The fault that is on, if any.

    Args:
        now: a monotonic clock, seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._fault: Fault | None = None
        self._until = float("inf")
        self._left: int | None = None

    def set(self, fault: Fault) -> None:
        """Turn a fault on, in place of the one before; `clear` turns it off."""
        self._fault = None if fault.kind == "clear" else fault
        self._until = float("inf") if fault.seconds is None else self._now() + fault.seconds
        self._left = fault.times

    def active(self) -> Fault | None:
        """The fault that is on."""
        if self._fault is not None and (self._now() >= self._until or self._left == 0):
            self._fault = None
        return self._fault

    def remaining(self) -> float:
        """Seconds until the fault that is on is over by itself; infinite if it is not."""
        return max(0.0, self._until - self._now())

    def on(self, *kinds: FaultKind) -> Fault | None:
        """The fault that is on, if it is one of these."""
        fault = self.active()
        return fault if fault is not None and fault.kind in kinds else None

    def meets(self, extra_key: object, *kinds: FaultKind) -> Fault | None:
        """As `on`, for a request: spares whom it spares, and counts."""
        fault = self.on(*kinds)
        if fault is None or fault.spares(extra_key):
            return None
        if self._left is not None:
            self._left -= 1
        return fault
