"""Calls of actors, with Ray's errors as those of a place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sun_sglang.errors import LaunchError, SunError
from sun_sglang.launch.places.place import PlaceLostError

# Ray reports a machine as unavailable before it knows whether it is lost
_LOOK_AGAIN_S = 0.5


async def answered(worker: str, call: Callable[[], Awaitable[Any]], *, within: float | None = None) -> Any:
    """Return the answer of an actor's method.

    Args:
        worker: the name of the actor's worker, for messages.
        call: calls the method; called again while Ray cannot reach the actor and does not know whether it is lost.
        within: longest time in seconds; None for no bound.

    Raises:
        PlaceLostError: Ray has lost the actor, or its machine.
        LaunchError: the method raised it, or there is no answer within the time.
    """
    import ray.exceptions

    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    return await call()
                except ray.exceptions.ActorUnavailableError:
                    await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        raise LaunchError(f"Ray has not started or reached the actor of `{worker}` within {within:g} s") from None
    except ray.exceptions.RayTaskError as e:
        cause = e.cause
        if isinstance(cause, SunError):
            raise cause from None
        raise LaunchError(f"the actor of `{worker}` failed: {cause!r}") from e
    except ray.exceptions.RayError as e:
        raise PlaceLostError(f"Ray has lost the actor of `{worker}`: {reason(e)}") from e


def reason(error: BaseException) -> str:
    """Return the part of Ray's long message that names the reason, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.lower().startswith(("the actor died", "the actor is dead", "the node"))]
    return (named or lines or [type(error).__name__])[0].rstrip(".")
