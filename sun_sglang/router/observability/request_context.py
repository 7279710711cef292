"""The request that the current asyncio task handles, for the metrics."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RequestContext:
    """One request while it is handled.

    Attributes:
        task: value of the label `task`: the name of a task in the fleet, else `unknown`. A client's text is never a
            label.
        outcome_counted: the service counts the outcome of the request, so the middleware must not.
        client_stalled: the router disconnected the client, which did not read the response.
    """

    task: str = "unknown"
    outcome_counted: bool = False
    client_stalled: bool = False


current_context: ContextVar[RequestContext] = ContextVar("current_context")
