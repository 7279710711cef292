"""Wait in a test that is not asynchronous; `sun_sglang.bench.polling.wait_until` waits in one that is."""

from __future__ import annotations

import time
from collections.abc import Callable

WITHIN = 60.0


def wait_for(done: Callable[[], object]) -> None:
    """Poll a condition until it is true.

    Raises:
        AssertionError: it is still false a minute later.
    """
    deadline = time.monotonic() + WITHIN
    while not done():
        assert time.monotonic() < deadline, f"not within {WITHIN:g} s"
        time.sleep(0.005)
