"""What is known of the request that is being handled, for the metrics."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RequestContext:
    """A request as the metrics know it while it is handled.

    Attributes:
        task: for labels; `unknown` until it is known, and never just what a client wrote.
        outcome_counted: whoever serves it counts how it ends.
        client_stalled: its client did not read the answer and was disconnected.
    """

    task: str = "unknown"
    outcome_counted: bool = False
    client_stalled: bool = False


current_context: ContextVar[RequestContext] = ContextVar("current_context")
