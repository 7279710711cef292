"""The state of a request in flight: one ticket for each answer, and its attempts on pairs of workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sun_sglang.router.dispatch.failover.losses import Failover, Loss, Replay
from sun_sglang.router.dispatch.failover.same_answer import Computation
from sun_sglang.router.dispatch.legs.leg_bodies import Leg
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.dispatch.outcome.decision import (
    AttemptFailed,
    Relay,
    Serve,
    aborted_early,
    awaited_leg,
    deadline_passed,
    decide,
    leaves_worker,
    no_progress,
)
from sun_sglang.router.transport.leg_exchange import LegExchange
from sun_sglang.router.transport.messages import LegFailure, LegResult
from sun_sglang.router.workers.compatibility import reads_replays
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair


class RequestCheck(Protocol):
    """A check of a request against the limits of its task, which may become narrower while the request waits."""

    @property
    def holds(self) -> bool:
        """Whether every worker that may receive the request now accepts it."""

    async def again(self) -> None:
        """Check the request against the limits of now.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            ApiError: no worker counted a prompt.
        """


@dataclass(eq=False, slots=True)
class AttemptTimes:
    """Times of an attempt's events in loop time, seconds; None for an event that did not happen.

    Attributes:
        sent: both legs were sent.
        prefilled: the prefill leg had handed its KV over.
        first: the decode leg's first bytes arrived.
        ended: the attempt ended.
    """

    sent: float
    prefilled: float | None = None
    first: float | None = None
    ended: float | None = None


@dataclass(eq=False, slots=True)
class Ticket:
    """One answer of a client's request, from admission to its end. A canary has a ticket too.

    Attributes:
        task: label of its metrics.
        rid: the client's id for it, if the client gave one; an abort names it.
        arrived: loop time, seconds.
        abort_asked: the client asked for an abort; a response that reports the abort is then no fault.
        counted: the metrics count it; a canary's are not counted.
        attempts: attempts under way.
        tries: all attempts, in order.
        owner: name of the client's API key; empty if the router has no keys.
        waiting: what it waits for before dispatch: its admission, or the prefill of another answer; None otherwise.
        queued: seconds for which it waited for admission.
        checked: its check against the limits of its task; None for a canary.
        on_prefilled: called with the attempt whose prefill leg succeeded; None if nothing waits for it.
        failover: the limits within which it goes on when its decode worker is lost; None if it then ends.
        losses: decode workers that were lost under it.
        replays: each time that it went on elsewhere, in order.
    """

    task: str
    rid: str | None
    arrived: float
    abort_asked: bool = False
    counted: bool = True
    attempts: set[Attempt] = field(default_factory=set)
    tries: list[Attempt] = field(default_factory=list)
    owner: str = ""
    waiting: asyncio.Future[None] | None = None
    queued: float = 0.0
    checked: RequestCheck | None = None
    on_prefilled: Callable[[Attempt], None] | None = None
    failover: Failover | None = None
    losses: int = 0
    replays: list[Replay] = field(default_factory=list)

    def survives(self, loss: Loss) -> bool:
        """Return whether the answer may go on after this loss; if it may, count the loss."""
        if self.failover is None or self.abort_asked:
            return False
        if loss is Loss.MOVED:
            return True
        if self.losses >= self.failover.attempts:
            return False
        self.losses += 1
        return True

    def request_abort(self) -> None:
        """Mark the request as aborted by its client, and end its wait."""
        self.abort_asked = True
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(aborted_early())

    def add_attempt(self, attempt: Attempt) -> None:
        """Note that an attempt is under way."""
        self.attempts.add(attempt)
        self.tries.append(attempt)

    def remove_attempt(self, attempt: Attempt) -> None:
        """Note that an attempt has ended."""
        self.attempts.discard(attempt)

    def start_wait(self, waiting: asyncio.Future[None]) -> None:
        """Note that the request waits; an abort sets an exception on the future."""
        self.waiting = waiting

    def end_wait(self, seconds: float) -> None:
        """Note that the wait has ended, and that the request waited for admission for `seconds`."""
        self.waiting, self.queued = None, seconds


class Attempt:
    """One attempt on one pair. `RunningAttempts` does the I/O and reports events to it.

    Args:
        request: the part of the request that does not depend on the pair.
        pair: the workers.
        rid: request id on both workers.
        ticket: the client's request.
        now: loop time, seconds.
        outcome: a future that the attempt sets.

    Attributes:
        results: result of each leg; None while it runs.
        incarnations: of the two workers when the legs were sent.
        outcome: set once the results decide it.
        legs: both exchanges, once they were sent.
        reading_since: clock time since which a reader waits for the stream's next piece; None while none waits.
        decoding_since: clock time since which the decode worker computes an unstreamed answer; None for a stream.
        cut_reason: why the router cut the stream off; empty if it did not.
        loss: the loss for which it cut the stream off; None for another reason, after which no answer goes on.
        computes: what determines the answer; None if the stream is not continued elsewhere.
        can_go_on: returns whether the answer could go on elsewhere now; None if nobody continues it.
        times: of its events.
        awaits_change: another module than that of the request was loaded when it was sent, as far as was known.
    """

    __slots__ = (
        "_held",
        "_module",
        "awaits_change",
        "can_go_on",
        "computes",
        "cut_reason",
        "decoding_since",
        "incarnations",
        "legs",
        "loss",
        "outcome",
        "pair",
        "reading_since",
        "request",
        "results",
        "rid",
        "ticket",
        "times",
    )

    def __init__(
        self,
        request: PairRequest,
        pair: Pair,
        rid: str,
        ticket: Ticket,
        now: float,
        outcome: asyncio.Future[Serve | Relay | AttemptFailed],
    ) -> None:
        self.times = AttemptTimes(now)
        self.request = request
        self.pair = pair
        self.rid = rid
        self.ticket = ticket
        self.results: dict[Leg, LegResult | None] = {"prefill": None, "decode": None}
        self.incarnations: dict[Leg, str] = {"prefill": pair.prefill.incarnation, "decode": pair.decode.incarnation}
        self.outcome = outcome
        self.legs: dict[Leg, LegExchange] = {}
        self.reading_since: float | None = None
        self.decoding_since: float | None = None
        self.cut_reason = ""
        self.loss: Loss | None = None
        decode = pair.decode.card
        goes_on = request.tokens is not None and decode is not None and reads_replays(decode)
        self.computes = Computation.of(pair) if goes_on else None
        self.can_go_on: Callable[[], bool] | None = None
        self._held: dict[Leg, int] = {}
        # None on a worker that serves its own model alone
        self._module: str | None = None
        self.awaits_change = False

    def worker(self, leg: Leg) -> Worker:
        """Return the worker of a leg."""
        return self.pair.prefill if leg == "prefill" else self.pair.decode

    def record(self, leg: Leg, result: LegResult) -> None:
        """Keep the first result of a leg, and set the outcome if the results decide it. Ignore later results."""
        if self.results[leg] is not None:
            return
        self.results[leg] = result
        prefill, decode, needs_prefill = self.results["prefill"], self.results["decode"], self.request.needs_prefill
        outcome = decide(
            prefill,
            decode,
            needs_prefill=needs_prefill,
            abort_asked=self.ticket.abort_asked,
            rid=self.rid,
            weights=self.pair.weights,
        )
        if isinstance(outcome, Serve | Relay | AttemptFailed):
            self._end(outcome)

    def note_sent(self, legs: dict[Leg, LegExchange]) -> None:
        """Keep the exchanges of both legs."""
        self.legs = legs

    def start_read(self, now: float) -> None:
        """Note that a reader waits for the stream's next piece; `now` is clock time in seconds."""
        self.reading_since = now

    def end_read(self) -> None:
        """Note that no reader waits."""
        self.reading_since = None

    @property
    def awaited_leg(self) -> Leg:
        """The leg whose work the first token waits for."""
        return awaited_leg(self.results["prefill"])

    @property
    def silent_since(self) -> float:
        """The clock time since which the decode worker has sent nothing of an awaited answer; infinite if none is."""
        since = self.decoding_since if self.reading_since is None else self.reading_since
        return float("inf") if since is None else since

    def expire(self, limit: float, *, silent: float, whole: bool) -> None:
        """End the attempt: its limit passed.

        Args:
            limit: seconds that the attempt had.
            silent: seconds since the worker of the awaited leg last made progress.
            whole: the limit is for the whole answer. A limit for the first token does not end an unstreamed answer that
                decodes: it arrives with its last token, and the stall detector watches it.
        """
        if self.results["prefill"] is None or self.request.stream or whole:
            self._end(deadline_passed(self.awaited_leg, silent=silent, limit=limit))

    def end_silent(self, limit: float, *, stalled: bool) -> None:
        """End an answer of which nothing arrived for a while.

        Args:
            limit: that while, in seconds.
            stalled: the decode worker makes no progress with any request.
        """
        if self.request.stream:
            self.cut_off(f"no token for {limit:g} s", Loss.STALLED if stalled else None)
        else:
            self._end(no_progress(limit, stalled=stalled))

    def fail_prefill(self, reason: str) -> None:
        """Record the loss of the prefill worker: its process is gone."""
        self.record("prefill", LegFailure(reason))

    def fail_decode(self, reason: str) -> None:
        """Record the loss of the decode worker: its process is gone. A stream that is under way ends."""
        self.record("decode", LegFailure(reason))
        self.cut_off(reason, Loss.GONE)

    def leave(self) -> None:
        """Leave a decode worker that is emptied. A stream that is under way goes on elsewhere."""
        if not self.outcome.done():
            self._end(leaves_worker())
        else:
            self.cut_off("its decode worker is drained", Loss.MOVED)

    def cut_off(self, reason: str, loss: Loss | None = None) -> None:
        """End the stream; its reader receives the reason.

        Args:
            reason: for humans.
            loss: the loss after which the answer may go on elsewhere; None if it may not.
        """
        if not self.cut_reason:
            self.cut_reason, self.loss = reason, loss
        if (decode := self.legs.get("decode")) is not None:
            decode.close()

    def note_handed_over(self, now: float, clock_now: float) -> None:
        """Note that the prefill leg handed its KV over, in loop time and clock time (seconds)."""
        self.times.prefilled = now
        prefill = self.pair.prefill
        prefill.note_progress(clock_now)
        if self._module is not None and prefill.incarnation == self.incarnations["prefill"]:
            prefill.modules.note_computed(self._module)
        self.decoding_since = None if self.request.stream else clock_now

    def note_first(self, now: float, clock_now: float) -> None:
        """Note that the decode leg's first bytes arrived, in loop time and clock time (seconds)."""
        self.times.first = now
        self.pair.decode.note_progress(clock_now)

    def note_end(self, now: float) -> None:
        """Note the end of the attempt at loop time `now`, once."""
        if self.times.ended is None:
            self.times.ended = now

    def acquire_workers(self) -> None:
        """Add the expected work to both workers, and subscribe to their loss."""
        prefill, decode = self.pair
        self._held = {"prefill": self.request.prefill_tokens(prefill), "decode": self.request.cost.decode}
        prefill.load.acquire(self._held["prefill"])
        if prefill.card is not None and prefill.card.modules is not None:
            self._module = self.pair.module
            self.awaits_change = prefill.modules.loaded != self._module
            prefill.modules.acquire(self._module)
        decode.load.acquire(self._held["decode"])
        prefill.add_loss_callback(self.fail_prefill)
        decode.add_loss_callback(self.fail_decode)

    def holds(self, leg: Leg) -> bool:
        """Return whether a leg's expected work is still counted on its worker."""
        return leg in self._held

    def release_worker(self, leg: Leg) -> bool:
        """Remove a leg's expected work from its worker. Return False if it was removed before."""
        tokens = self._held.pop(leg, None)
        if tokens is None:
            return False
        worker = self.worker(leg)
        worker.load.release(tokens)
        if leg == "prefill" and self._module is not None:
            worker.modules.release(self._module)
        worker.remove_loss_callback(self.fail_prefill if leg == "prefill" else self.fail_decode)
        return True

    def _end(self, outcome: Serve | Relay | AttemptFailed) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
