"""The reasons for which an answer goes on elsewhere, their limits, and the record of each time. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Loss(StrEnum):
    """Why an answer leaves its decode worker, as a label of the metrics.

    Attributes:
        BROKEN: the connection broke, or the stream ended before `[DONE]`.
        GONE: its process is dead, replaced or unreachable.
        STALLED: it runs no batch.
        MOVED: it is drained, and an operator asked to move its answers.
    """

    BROKEN = "broken"
    GONE = "gone"
    STALLED = "stalled"
    MOVED = "moved"


class Failover(NamedTuple):
    """The limits of answers that go on elsewhere.

    Attributes:
        tokens: most output tokens of one answer that are kept and repeated.
        attempts: most losses of decode workers that one answer survives. A move is no loss.
    """

    tokens: int
    attempts: int


@dataclass(eq=False, slots=True)
class Replay:
    """One time that an answer goes on elsewhere.

    Attributes:
        loss: why.
        worker: name of the decode worker that it left.
        tokens: output tokens that the next worker repeats.
        began: loop time in seconds since which the client has received nothing.
        resumed: loop time of the first new bytes for the client; None if there were none.
    """

    loss: Loss
    worker: str
    tokens: int
    began: float
    resumed: float | None = None
