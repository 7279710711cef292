"""Faults that an emulated worker simulates on command. Pure: the code where a fault occurs checks if it is active."""

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
    "die_in_change",
    "blackhole_bootstrap",
    "close_bootstrap",
    "slow",
    "hold",
    "unresponsive",
    "unhealthy",
    "status",
    "abort",
    "unhooked",
    "fail_load",
    "hold_load",
    "skip_load",
    "lose_adapters",
    "lose_modules",
    "clear",
]


class Fault(Strict):
    """One fault.

    Attributes:
        kind: `refuse` closes the listening socket and every connection. `hang` accepts connections and never answers,
            cards and heartbeats included. `die` ends the process at once; `die_at_token` when the answer of a request
            reaches `token` tokens; `die_in_prefill` half-way through a prefill batch; `die_in_change` half-way through
            a change of modules. `blackhole_bootstrap` accepts decode workers and never answers them; `close_bootstrap`
            closes the bootstrap port for good. `slow` multiplies all times by `factor`. `hold`, on a decode worker,
            adds no tokens to an answer that has `token` tokens. `unresponsive` reports healthy and answers no request;
            `unhealthy` reports unhealthy and serves. `status` answers requests with the HTTP status `status`; `abort`
            with an abort inside a 200. `unhooked` reports in the card that a hook is missing. `fail_load` refuses loads
            of LoRA adapters and additions of modules; `hold_load` delays them until it ends; `skip_load` reports their
            success, and they have no effect. `lose_adapters` and `lose_modules` forget all of them once. `clear` ends
            the active fault.
        token: for `die_at_token`, counted from 1, and for `hold`.
        factor: for `slow`.
        status: for `status`.
        times: number of requests that `hang`, `unresponsive`, `status`, `abort` and `die_at_token` apply to, and number
            of loads that `fail_load` and `skip_load` apply to; then the fault ends.
        seconds: duration of the fault; the only end of a `refuse`.
        spare: exempts requests whose `extra_key` contains this text, such as `sun-canary`.
    """

    kind: FaultKind
    token: int = Field(default=1, ge=0)
    factor: float = Field(default=10.0, gt=0)
    status: int = Field(default=500, ge=400, le=599)
    times: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    spare: str = ""

    def spares(self, extra_key: object) -> bool:
        """Return whether a request with this `extra_key` is exempt."""
        return bool(self.spare) and self.spare in str(extra_key or "")


class FaultInjector:
    """Holds the active fault, if there is one.

    Args:
        now: a monotonic clock, seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._fault: Fault | None = None
        self._until = float("inf")
        self._left: int | None = None

    def set(self, fault: Fault) -> None:
        """Activate a fault in place of the previous one; `clear` only ends the previous one."""
        self._fault = None if fault.kind == "clear" else fault
        self._until = float("inf") if fault.seconds is None else self._now() + fault.seconds
        self._left = fault.times

    def remaining(self) -> float:
        """Return the seconds until the active fault ends; infinite if it has no duration."""
        return max(0.0, self._until - self._now())

    def active(self, *kinds: FaultKind) -> Fault | None:
        """Return the active fault if it is of one of these kinds."""
        if self._fault is not None and (self._now() >= self._until or self._left == 0):
            self._fault = None
        return self._fault if self._fault is not None and self._fault.kind in kinds else None

    def apply(self, extra_key: object, *kinds: FaultKind) -> Fault | None:
        """Return the fault that applies to a request, and count the request; None if the request is exempt.

        Args:
            extra_key: the request's `extra_key`.
            kinds: the kinds to consider.
        """
        fault = self.active(*kinds)
        if fault is None or fault.spares(extra_key):
            return None
        if self._left is not None:
            self._left -= 1
        return fault
