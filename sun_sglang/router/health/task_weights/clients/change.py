"""What the router knows of a change of a worker's weights, and how it asks for one. I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import aiohttp

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.clock import Clock
from sun_sglang.router.transport.http_session import describe_error, read_at_most

# A reply names every loaded adapter with its path.
MAX_REPLY_BYTES = 1 << 24


class Change(NamedTuple):
    """What is known of a change.

    Attributes:
        fault: why it was not done; empty if it was.
        answered: whether the worker answered. Without an answer it may still do it.
    """

    fault: str
    answered: bool = True


ReadFault = Callable[[int, bytes], str]
"""Return why a worker did not make a change, from the status and the body of its reply; empty if it made it."""


async def ask_for_change(
    session: aiohttp.ClientSession,
    clock: Clock,
    worker: FleetWorker,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    seconds: float,
    read_fault: ReadFault,
) -> Change:
    """Send a worker a request that changes its weights.

    Args:
        session: sends it.
        clock: measures the limit.
        worker: the worker.
        method: of the request.
        path: of the request.
        body: its JSON; None for none.
        seconds: limit for the reply.
        read_fault: reads the reply.
    """
    try:
        async with (
            clock.timeout(seconds),
            session.request(
                method, worker.url + path, json=body, headers=worker.headers, allow_redirects=False
            ) as response,
        ):
            return Change(read_fault(response.status, await read_at_most(response, MAX_REPLY_BYTES)))
    except TimeoutError:
        return Change(f"no answer to {path} within {seconds:g} s", answered=False)
    except (aiohttp.ClientError, OSError, ValueError) as e:
        return Change(describe_error(e), answered=False)
