"""What the launcher and the `sun` command say to each other about a rolling restart: JSON lines."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sun_sglang.strict import Strict

RESTART_PATH = "/restart"
"""POST begins a restart; DELETE ends the one under way after the present worker."""


class Step(StrEnum):
    """A step of the restart of one worker.

    Attributes:
        DRAIN: it gets no new requests, and those in flight end or move.
        STOP: its processes end.
        START: its next start begins, until the router has read its card.
        CANARY: until it serves all that it served before.
    """

    DRAIN = "drain"
    STOP = "stop"
    START = "start"
    CANARY = "canary"


class RestartRequest(Strict):
    """Which workers to restart.

    Attributes:
        name: a pool or a worker.
        pool: the pool of the worker; without `name`, the pool to restart.
        timeout: seconds that the requests in flight of one worker may take to end or to move.
        allow_gap: restart a worker although no other one serves its tasks.
    """

    name: str | None = None
    pool: str | None = None
    timeout: float = Field(ge=0, allow_inf_nan=False)
    allow_gap: bool = False


class _Event(BaseModel):
    # the launcher may be of another version
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Event):
    """A step has begun, or its number of requests has changed.

    Attributes:
        worker: name of the worker.
        number: which of the workers to restart it is, from 1.
        of: how many are restarted.
        step: the step.
        in_flight: its requests in flight.
    """

    kind: Literal["progress"] = "progress"
    worker: str
    number: int
    of: int
    step: Step
    in_flight: int = 0


class Restarted(_Event):
    """A worker serves again.

    Attributes:
        worker: name of the worker.
        seconds: duration of each step.
        drained: it was drained before, so it still gets no requests.
    """

    kind: Literal["restarted"] = "restarted"
    worker: str
    seconds: dict[Step, float]
    drained: bool = False


class Failure(_Event):
    """The worker at which a restart stopped.

    Attributes:
        worker: name of the worker.
        step: the step that failed.
        reason: why, what state the worker is in, and which command goes on.
    """

    worker: str
    step: Step
    reason: str


class Outcome(_Event):
    """The end of a restart.

    Attributes:
        restarted: the workers that serve again, in their order.
        failed: the worker that does not; None where there is none.
        left: the workers that were not touched.
        cancelled: whether it ended because the user asked for it.
    """

    kind: Literal["outcome"] = "outcome"
    restarted: tuple[Restarted, ...]
    failed: Failure | None = None
    left: tuple[str, ...] = ()
    cancelled: bool = False


Event = Progress | Restarted | Outcome
EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
