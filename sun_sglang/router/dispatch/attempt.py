"""One try at an answer on one pair of workers: what was heard of its legs, and what it weighs on the workers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sun_sglang.router.dispatch.legs import PairRequest
from sun_sglang.router.dispatch.outcome import (
    AttemptFailed,
    Leg,
    Relay,
    Serve,
    awaited_leg,
    deadline_passed,
    decide,
    no_progress,
)
from sun_sglang.router.serving.length_check import CheckedLimits
from sun_sglang.router.transport.leg_exchange import LegExchange
from sun_sglang.router.transport.messages import LegFailure, LegResult
from sun_sglang.router.workers.paths import Pair
from sun_sglang.router.workers.worker import Worker


@dataclass(eq=False, slots=True)
class AttemptTimes:
    """When what happened to an attempt, in loop time; None where it did not.

    Attributes:
        sent: both legs were.
        prefilled: the prefill leg had handed its KV over.
        first: the decode leg began to answer.
        ended: the attempt did.
    """

    sent: float
    prefilled: float | None = None
    first: float | None = None
    ended: float | None = None


@dataclass(eq=False, slots=True)
class Ticket:
    """A client's request while it is in flight.

    Attributes:
        task: for counting.
        rid: the id under which the client may abort it, if it gave one.
        arrived: loop time, seconds.
        abort_asked: the client asked for an abort; what the legs then report is an answer, not a fault.
        counted: a client's, to be seen in the metrics; a canary is not.
        attempts: attempts under way.
        tries: all attempts, in order.
        owner: name of the API key that it came with; empty where there are no keys.
        waiting: what it waits for before it may go to workers; None once it may.
        queued: seconds that it waited.
        checked: its check against its task's limits, which is made again where these changed; None for a canary.
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
    checked: CheckedLimits | None = None


class Attempt:
    """The state of a try. The dispatcher does the I/O and tells it what happened.

    Attributes:
        request: what is asked.
        pair: who was chosen.
        rid: its id on both workers.
        results: the first thing that each leg said.
        incarnations: of the two workers, when the legs were sent.
        outcome: what to do, once that can be said.
        legs: both, once they were sent.
        reading_since: clock time since which the next chunk is awaited; None while nobody waits.
        decoding_since: clock time since which the decode worker owes a whole answer's tokens; None for a stream.
        cut: why the stream was cut off by the router, if it was.
        times: when what happened.
    """

    __slots__ = (
        "_held",
        "cut",
        "decoding_since",
        "incarnations",
        "legs",
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
        self.cut = ""
        self._held: dict[Leg, int] = {}

    def worker(self, leg: Leg) -> Worker:
        """The worker of a leg."""
        return self.pair.prefill if leg == "prefill" else self.pair.decode

    def record(self, leg: Leg, said: LegResult) -> None:
        """Take the first thing that a leg says; what comes after cannot change the outcome."""
        if self.results[leg] is not None:
            return
        self.results[leg] = said
        outcome = decide(
            self.results["prefill"],
            self.results["decode"],
            needs_prefill=self.request.needs_prefill,
            abort_asked=self.ticket.abort_asked,
            rid=self.rid,
        )
        if isinstance(outcome, Serve | Relay | AttemptFailed):
            self._end(outcome)

    @property
    def awaited_leg(self) -> Leg:
        """The leg that owes the first token."""
        return awaited_leg(self.results["prefill"])

    @property
    def silent_since(self) -> float:
        """Clock time since which the decode worker owes an answer and shows nothing of it; infinite if it owes none."""
        since = self.decoding_since if self.reading_since is None else self.reading_since
        return float("inf") if since is None else since

    def expire(self, limit: float, *, silent: float, whole: bool) -> None:
        """The deadline passed.

        Args:
            limit: seconds that were waited.
            silent: seconds since the worker of the owing leg last made progress.
            whole: the deadline is for the whole answer. Else it is for the first token, and an answer that is not
                streamed comes with its last: once decoding has begun, `stall` looks after it.
        """
        if self.results["prefill"] is None or self.request.stream or whole:
            self._end(deadline_passed(self.awaited_leg, silent=silent, limit=limit))

    def end_silent(self, limit: float, *, stalled: bool) -> None:
        """End an answer of which nothing came for `limit` seconds. `stalled`: its worker makes no progress at all."""
        if self.request.stream:
            self.cut_off(f"no token for {limit:g} s")
        else:
            self._end(no_progress(limit, stalled=stalled))

    def fail_prefill(self, reason: str) -> None:
        """The prefill worker left the rotation."""
        self.record("prefill", LegFailure(reason))

    def fail_decode(self, reason: str) -> None:
        """The decode worker left the rotation; a stream that is under way ends."""
        self.record("decode", LegFailure(reason))
        self.cut_off(reason)

    def cut_off(self, reason: str) -> None:
        """End the stream; whoever reads it learns why."""
        self.cut = self.cut or reason
        if (decode := self.legs.get("decode")) is not None:
            decode.close()

    def hold(self) -> None:
        """Put the attempt's weight on both workers and listen for their loss."""
        prefill, decode = self.pair
        prefill.load.acquire(self.request.cost.prefill)
        decode.load.acquire(self.request.cost.decode)
        self._held = {"prefill": self.request.cost.prefill, "decode": self.request.cost.decode}
        prefill.add_loss_callback(self.fail_prefill)
        decode.add_loss_callback(self.fail_decode)

    def holds(self, leg: Leg) -> bool:
        """Whether a leg's weight is still on its worker."""
        return leg in self._held

    def release(self, leg: Leg) -> bool:
        """Take one leg's weight off again; False if it was off already."""
        tokens = self._held.pop(leg, None)
        if tokens is None:
            return False
        worker = self.worker(leg)
        worker.load.release(tokens)
        worker.remove_loss_callback(self.fail_prefill if leg == "prefill" else self.fail_decode)
        return True

    def _end(self, outcome: Serve | Relay | AttemptFailed) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
