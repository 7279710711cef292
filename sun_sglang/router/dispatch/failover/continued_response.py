"""The handle on a stream that goes on with another decode worker when its own is lost."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.failover.losses import Failover, Loss, Replay
from sun_sglang.router.dispatch.failover.mover import Mover
from sun_sglang.router.dispatch.failover.replay_reports import ReplayReports
from sun_sglang.router.dispatch.pair_response import PairResponse, StreamBrokenError
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.replay.answer_stream import AnswerStream
from sun_sglang.router.protocol.replay.channels import ReplayDiffersError
from sun_sglang.router.transport.messages import LegResponse

GoOn = Callable[[PairResponse, "array[int]"], Awaitable[PairResponse]]
"""Sends the request of a lost response again, to a pair that repeats these tokens. Raises `ApiError`."""


class ContinuedResponse:
    """An answer that has started, over all pairs that make a part of it; see `Answer`.

    Args:
        response: the first pair's response, whose decode worker reports its tokens.
        limits: of the answer.
        go_on: gets the response of another pair.
        mover: tells the answer to leave a worker that is emptied.
        reports: counts and logs what happens.

    Attributes:
        head: the first events.
        prefill: the first prefill leg's body; None if the answer does not need it.
        rid: the first request id, which all of its events have.
    """

    def __init__(
        self, response: PairResponse, limits: Failover, go_on: GoOn, mover: Mover, reports: ReplayReports
    ) -> None:
        self._response = response
        self._ticket = response.attempt.ticket
        self._go_on = go_on
        self._mover = mover
        self._reports = reports
        self._stream = AnswerStream(response.attempt.request.endpoint, response.rid, limits.tokens)
        self._when_decoded: Callable[[], None] | None = None
        self._replay: Replay | None = None
        self.prefill = response.prefill
        self.rid = response.rid
        self.head = self._stream.feed(response.head)
        self._watch()

    @property
    def weights(self) -> TaskWeights | None:
        """The task's own weights that prefilled the prompt; None for the pool's model."""
        return self._response.weights

    async def read(self) -> bytes:
        """Return the next piece of the stream; empty at its end.

        Raises:
            StreamBrokenError: the answer cannot go on.
        """
        while True:
            try:
                chunk = await self._response.read()
                if chunk:
                    shown = self._stream.feed(chunk)
                elif self._stream.done:
                    return b""
                else:
                    raise StreamBrokenError("it ended without [DONE]")
            except StreamBrokenError as broken:
                shown = await self._continue(str(broken))
            except ReplayDiffersError as differs:
                raise self._other_answer(differs) from differs
            if shown:
                if self._replay is not None:
                    self._reports.resumed(self._response.attempt, self._replay)
                    self._replay = None
                return shown

    def when_decoded(self, callback: Callable[[], None]) -> None:
        """Call back once the last worker has made the rest of the answer; see `Answer`.

        After a loss the answer counts as in flight until it has gone on to its end.
        """
        self._when_decoded = callback
        self._response.when_decoded(callback, if_lost=False)

    def finish(self) -> None:
        """End the answer: it was delivered."""
        self._response.attempt.can_go_on = None
        self._response.finish()

    def abandon(self) -> None:
        """End the answer and abort both legs: no client reads it, or it cannot be read."""
        self._response.attempt.can_go_on = None
        self._response.abandon()

    def report_broken(self, reason: str) -> None:
        """Do nothing: each loss was reported when it occurred."""

    def _watch(self) -> None:
        """Let the mover cut the stream of the pair that makes the answer now."""
        attempt = self._response.attempt
        attempt.can_go_on = lambda: not self._stream.fault_now()
        # its worker may have begun to empty since the first bytes arrived
        self._mover.check(attempt)

    def _other_answer(self, differs: ReplayDiffersError) -> StreamBrokenError:
        """End the answer: a worker repeats another one. Return the error for its reader."""
        self._response.abandon()
        self._reports.differs(self._response.attempt, str(differs))
        message = f"its decode worker was lost, and another one repeats it differently: {differs}"
        return StreamBrokenError(message, "replay_differs")

    async def _continue(self, reason: str) -> bytes:
        """Go on with another pair, and return the first bytes that it adds; empty if it adds none yet.

        Raises:
            StreamBrokenError: the answer cannot go on.
        """
        lost = self._response
        attempt = lost.attempt
        lost.report_broken(reason)
        loss = attempt.loss if attempt.cut_reason else Loss.BROKEN
        if loss is None:
            raise StreamBrokenError(reason)
        if fault := self._stream.fault_now():
            raise StreamBrokenError(f"{reason}; the answer cannot go on elsewhere: {fault}")
        if self._ticket.abort_asked:
            lost.abandon()
            return self._stream.abort_event()
        if not self._ticket.survives(loss):
            raise StreamBrokenError(f"{reason}; it was lost too often to go on (router.failover_attempts)")
        attempt.can_go_on = None
        lost.abandon()
        tokens = self._stream.tokens
        # a replay that was still under way counts from its own beginning
        self._replay = self._reports.begin(attempt, loss, len(tokens), self._replay)
        try:
            response = await self._go_on(lost, tokens)
        except ApiError as error:
            if self._ticket.abort_asked:
                return self._stream.abort_event()
            raise StreamBrokenError(f"{reason}; it could not go on elsewhere: {error.message}") from error
        self._response = response
        self._stream.repeat(response.rid, _prefill_reply(attempt))
        if self._when_decoded is not None:
            response.when_decoded(self._when_decoded, if_lost=False)
        try:
            shown = self._stream.feed(response.head)
        except ReplayDiffersError as differs:
            raise self._other_answer(differs) from differs
        self._watch()
        return shown


def _prefill_reply(attempt: Attempt) -> bytes | None:
    result = attempt.results["prefill"]
    return result.head if isinstance(result, LegResponse) else None
