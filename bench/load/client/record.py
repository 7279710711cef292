"""What is known of one request after it was sent."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple


class Failure(NamedTuple):
    """Why a request failed.

    Attributes:
        kind: one of a few words, by which errors are counted: `http_429` and other statuses, `connection`, `timeout`,
            `stream`, `wrong_length`, `no_usage`, `open_files`.
        message: the reason in one line, with the server's own text where it has one.
    """

    kind: str
    message: str


@dataclass(slots=True)
class RequestRecord:
    """A request that was sent. Times are seconds on the run's clock, so that the window cuts them.

    Attributes:
        index: position in the plan.
        task: the task.
        wanted_tokens: output tokens that the request asks for.
        due: the time at which the plan sends it; None in a closed loop.
        sent: the time at which it was sent.
        first: arrival of the first output token; None before it.
        last: arrival of the last output token so far.
        ended: the time at which the answer was complete or had failed; None while it runs, and for ever where the run
            ended first.
        arrivals: times at which output tokens arrived, one entry for each read of the socket.
        arrived: number of tokens at each of these times.
        prompt_tokens: tokens of the prompt, as the server counts them.
        cached_tokens: of these, those that the server had in a cache; None where it reports none.
        output_tokens: tokens of the answer, as the server counts them.
        failure: why it failed; None where it did not.
        session: number of the session, of agent workloads.
        answer: of these, the token ids of the answer; None where the server does not report them.
    """

    index: int
    task: str
    wanted_tokens: int
    due: float | None
    sent: float
    first: float | None = None
    last: float | None = None
    ended: float | None = None
    # two arrays take 12 bytes for an arrival and nothing of the garbage collector's time, tuples in a list ten times it
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    arrived: array[int] = field(default_factory=lambda: array("i"))
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    failure: Failure | None = None
    session: int | None = None
    answer: array[int] | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the whole answer arrived, with the wanted number of tokens."""
        return self.ended is not None and self.failure is None
