"""The response of a pair of workers, returned after the decode leg's first bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.ejection import Ejector
from sun_sglang.router.dispatch.running_attempts import RunningAttempts
from sun_sglang.router.transport.errors import LegError


class StreamBrokenError(Exception):
    """A stream ended before its `[DONE]`. The text states the reason.

    Args:
        reason: for humans.
        code: of the error that the client receives.

    Attributes:
        code: see above.
    """

    def __init__(self, reason: str, code: str = "stream_broken") -> None:
        super().__init__(reason)
        self.code = code


class Answer(Protocol):
    """The handle on an answer that has started: of one pair (`PairResponse`), or of several one after another.

    Its reader calls `finish` or `abandon` at the end.
    """

    @property
    def head(self) -> bytes:
        """The whole body, or its stream up to the end of the first event at least."""

    @property
    def prefill(self) -> bytes | None:
        """The prefill leg's body; None if the answer does not need it."""

    @property
    def rid(self) -> str:
        """The request id in the answer."""

    @property
    def weights(self) -> TaskWeights | None:
        """The task's own weights that prefilled the prompt; None for the pool's model."""

    async def read(self) -> bytes:
        """Return the next piece of a stream; empty at its end.

        Raises:
            StreamBrokenError: the answer cannot go on.
        """

    def when_decoded(self, callback: Callable[[], None]) -> None:
        """Call back once workers have made the answer; at once if they have. The client may still be reading."""

    def finish(self) -> None:
        """End the answer: it was delivered."""

    def abandon(self) -> None:
        """End the answer and abort its legs: no client reads it, or it cannot be read."""

    def report_broken(self, reason: str) -> None:
        """Eject the decode worker whose stream broke off, unless the router itself cut the stream."""


class PairResponse:
    """The handle on an answer that has started. Its reader calls `finish` or `abandon` at the end.

    Args:
        attempts: ends the attempt.
        ejector: for a decode worker whose stream broke off.
        attempt: the attempt that succeeded.
        head: the decode leg's whole body, or its stream up to the end of the first event at least.
        prefill: the prefill leg's body; None if the answer does not need it.

    Attributes:
        head: see above.
        prefill: see above.
        attempt: see above.
    """

    def __init__(
        self, attempts: RunningAttempts, ejector: Ejector, attempt: Attempt, head: bytes, prefill: bytes | None
    ) -> None:
        self.head = head
        self.prefill = prefill
        self._attempts = attempts
        self._ejector = ejector
        self.attempt = attempt

    @property
    def rid(self) -> str:
        """The request id on the workers."""
        return self.attempt.rid

    @property
    def weights(self) -> TaskWeights | None:
        """The task's own weights that prefilled the prompt; None for the pool's model."""
        return self.attempt.pair.weights

    async def read(self) -> bytes:
        """Return the next piece of a stream; empty at its end.

        Raises:
            StreamBrokenError: the worker died, stalled, or was ejected.
        """
        attempt = self.attempt
        attempt.start_read(self._attempts.clock.now())
        try:
            return await attempt.legs["decode"].read()
        except LegError as e:
            raise StreamBrokenError(attempt.cut_reason or str(e)) from e
        finally:
            attempt.end_read()

    def when_decoded(self, callback: Callable[[], None], *, if_lost: bool = True) -> None:
        """Call back once the decode leg has ended; at once if it has. The client may still be reading.

        Args:
            callback: takes nothing.
            if_lost: also call back if the leg ended with an error.
        """

        def over(error: LegError | None) -> None:
            if error is None:
                self._attempts.release_decode(self.attempt)
            if error is None or if_lost:
                callback()

        self.attempt.legs["decode"].when_over(over)

    def finish(self) -> None:
        """End the attempt: the answer was delivered."""
        self._attempts.finish(self.attempt)

    def abandon(self) -> None:
        """End the attempt and abort both legs: no client reads the answer, or it cannot be read."""
        self._attempts.abandon(self.attempt)

    def report_broken(self, reason: str) -> None:
        """Eject the decode worker whose stream broke off, unless the router itself cut the stream."""
        if not self.attempt.cut_reason:
            self._ejector.eject(self.attempt.pair.decode.name, reason)
