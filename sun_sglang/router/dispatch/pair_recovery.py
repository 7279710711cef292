"""Select a pair of workers, and wait a moment for one where none is usable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

from sun_sglang.errors import RequestError
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.errors import ApiError
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker_paths import Pair


class PairRecovery:
    """Returns the pair that a policy selects. A broken connection may have left a task without one for an instant.

    Args:
        registry: the usable pairs.
        selector: the routing policies.
        clock: for the wait.
        deadlines: `recovery`.
    """

    def __init__(self, registry: Registry, selector: PairSelector, clock: Clock, deadlines: Deadlines) -> None:
        self._registry = registry
        self._selector = selector
        self._clock = clock
        self._deadlines = deadlines
        self._closed = False
        self._changed = asyncio.Event()
        registry.on_usable.append(self._wake)

    async def select(
        self,
        request: PairRequest,
        ticket: Ticket,
        avoid: Set[str],
        accepts: Callable[[Pair], bool] | None = None,
    ) -> Pair | None:
        """Return a pair that accepts the request; None if there is none within the limit.

        The usable pairs may have changed since the request was checked, so the check is repeated if the task's limits
        became narrower.

        Args:
            request: its task and cost.
            ticket: its check.
            avoid: workers that failed this request; selected only if there is no other pair.
            accepts: returns whether a usable pair may serve the request; None if each may.

        Raises:
            ApiError: the workers that are usable now do not accept the request.
        """
        while (pair := await self._wait_for_pair(request, avoid, accepts)) is not None:
            if ticket.checked is None or ticket.checked.holds:
                return pair
            try:
                await ticket.checked.again()
            except RequestError as e:
                raise ApiError.of(e) from e
        return None

    def close(self) -> None:
        """End all waits: the router stops."""
        self._closed = True
        self._wake()

    async def _wait_for_pair(
        self, request: PairRequest, avoid: Set[str], accepts: Callable[[Pair], bool] | None
    ) -> Pair | None:
        if (pair := self._select(request, avoid, accepts)) is not None:
            return pair
        try:
            async with self._clock.timeout(self._deadlines.recovery):
                while (pair := self._select(request, avoid, accepts)) is None and not self._closed:
                    await self._changed.wait()
        except TimeoutError:
            # the limit may pass in the same step of the event loop in which a pair becomes usable
            return self._select(request, avoid, accepts)
        return pair

    def _select(self, request: PairRequest, avoid: Set[str], accepts: Callable[[Pair], bool] | None) -> Pair | None:
        pairs = self._registry.usable(request.task)
        if accepts is not None:
            pairs = tuple(filter(accepts, pairs))
        return self._selector.select(pairs, request.cost, request.keys, avoid, request.holder)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
