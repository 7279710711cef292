"""Move the answers of decode workers that are drained with `--move`."""

from __future__ import annotations

from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.running_attempts import RunningAttempts
from sun_sglang.router.workers.registry import Registry


class Mover:
    """Lets answers leave a decode worker that is emptied, as soon as another pair can go on with them.

    An answer that no other pair can go on with stays, and is looked at again when the usable pairs change.

    Args:
        attempts: those under way.
        registry: the workers and the usable pairs.
    """

    def __init__(self, attempts: RunningAttempts, registry: Registry) -> None:
        self._attempts = attempts
        self._registry = registry
        self._closed = False
        registry.on_usable.append(self.check_all)

    def check_all(self) -> None:
        """Let each answer leave that may."""
        if any(worker.moving for worker in self._registry.workers.values()):
            for attempt in self._attempts:
                self.check(attempt)

    def check(self, attempt: Attempt) -> None:
        """Let an answer leave its decode worker if the worker is emptied, and another pair can go on with it."""
        ticket = attempt.ticket
        if self._closed or not attempt.pair.decode.moving or ticket.failover is None or ticket.abort_asked:
            return
        if attempt.cut_reason or (attempt.outcome.done() and not self._may_be_cut(attempt)):
            return
        computes = attempt.computes if attempt.outcome.done() else None
        if any(computes is None or computes.goes_on(pair) for pair in self._registry.usable(attempt.request.task)):
            attempt.leave()

    def close(self) -> None:
        """Move nothing from now on: the router stops."""
        self._closed = True

    def _may_be_cut(self, attempt: Attempt) -> bool:
        """Return whether a stream that the client has a part of could be continued; its rest has not arrived yet."""
        return attempt.can_go_on is not None and not attempt.legs["decode"].over and attempt.can_go_on()
