"""Waiting for a condition: its value, its time-out and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sun_sglang.bench.polling import ConditionNotMetError, wait_until


def counter(asynchronous: bool) -> Callable[[], Any]:
    """Return a condition whose value is 0, then 1, then 2, and so on."""
    values = iter(range(1000))

    async def later() -> int:
        return next(values)

    return later if asynchronous else lambda: next(values)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_wait_until_returns_the_first_value_that_is_accepted(asynchronous: bool) -> None:
    assert await wait_until(counter(asynchronous), interval=0) == 1
    assert await wait_until(counter(asynchronous), accept=lambda value: value == 5, interval=0) == 5


async def test_wait_until_a_false_condition_names_the_state_and_the_last_value() -> None:
    with pytest.raises(ConditionNotMetError, match=r"not within 0.05 s: two counted; last value: 0\.0"):
        await wait_until(lambda: 0.0, "two counted", within=0.05)


async def test_wait_until_a_call_that_does_not_return_ends_in_time() -> None:
    with pytest.raises(ConditionNotMetError):
        await wait_until(asyncio.Event().wait, within=0.05)


async def test_wait_until_passes_on_a_time_out_of_the_condition_itself() -> None:
    async def times_out() -> bool:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await wait_until(times_out)
