"""Wait for a condition by polling it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar, overload

T = TypeVar("T")

WITHIN = 60.0
INTERVAL = 0.01


class ConditionNotMetError(AssertionError):
    """A condition did not become true in time; the message names it and its last value."""


@overload
async def wait_until(
    condition: Callable[[], Awaitable[T]],
    what: str = ...,
    *,
    within: float = ...,
    accept: Callable[[T], object] = ...,
    interval: float = ...,
) -> T: ...
@overload
async def wait_until(
    condition: Callable[[], T],
    what: str = ...,
    *,
    within: float = ...,
    accept: Callable[[T], object] = ...,
    interval: float = ...,
) -> T: ...
async def wait_until(
    condition: Callable[[], Any],
    what: str = "the condition is true",
    *,
    within: float = WITHIN,
    accept: Callable[[Any], object] = bool,
    interval: float = INTERVAL,
) -> Any:
    """Poll a condition until its value is accepted, and return that value.

    Args:
        condition: function or coroutine function that reads the current value.
        what: the awaited state, for the error message.
        within: seconds to wait; an asynchronous call that is still running then is cancelled.
        accept: returns whether a value ends the wait; by default a true value does.
        interval: seconds between two calls.

    Raises:
        ConditionNotMetError: no value was accepted in time.
    """
    value: Any = None
    try:
        async with asyncio.timeout(within) as deadline:
            while True:
                value = condition()
                if isawaitable(value):
                    value = await value
                if accept(value):
                    return value
                await asyncio.sleep(interval)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise ConditionNotMetError(f"not within {within:g} s: {what}; last value: {value!r}") from None
