"""An answer that has begun, as whoever delivers it sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.transport.errors import LegError

if TYPE_CHECKING:
    from sun_sglang.router.dispatch.dispatcher import Dispatcher


class StreamBrokenError(Exception):
    """A stream ended without its end; the text says why."""


class PairResponse:
    """A decode leg that has begun to answer, and what the prefill leg said if that was waited for.

    Attributes:
        head: the whole body, or a stream's first event.
        prefill: the prefill leg's body; None where it is not needed.
    """

    def __init__(self, dispatcher: Dispatcher, attempt: Attempt, head: bytes, prefill: bytes | None) -> None:
        self.head = head
        self.prefill = prefill
        self._dispatcher = dispatcher
        self._attempt = attempt

    @property
    def rid(self) -> str:
        """The id that the workers know the request by."""
        return self._attempt.rid

    async def read(self) -> bytes:
        """The next piece of a stream; empty at its end.

        Raises:
            StreamBroken: the worker died, stalled, or was ejected.
        """
        attempt = self._attempt
        attempt.reading_since = self._dispatcher.clock.now()
        try:
            return await attempt.legs["decode"].read()
        except LegError as e:
            raise StreamBrokenError(attempt.cut or str(e)) from e
        finally:
            attempt.reading_since = None

    def when_decoded(self, callback: Callable[[], None]) -> None:
        """Call back as soon as the decode leg has ended, at once if it has. The client may still be reading."""

        def over(error: LegError | None) -> None:
            if error is None:
                self._dispatcher.decoded(self._attempt)
            callback()

        self._attempt.legs["decode"].when_over(over)

    def finish(self) -> None:
        """The answer was delivered in full."""
        self._dispatcher.finish(self._attempt)

    def abandon(self) -> None:
        """The answer is not wanted, or not to be had: abort both legs."""
        self._dispatcher.abandon(self._attempt)

    def lost(self, reason: str) -> None:
        """The stream broke off. If the router did not cut it, the decode worker has to prove itself again."""
        if not self._attempt.cut:
            self._dispatcher.eject(self._attempt.pair.decode.name, reason)
