"""One request of a load."""

from __future__ import annotations

from typing import NamedTuple


class Arrival(NamedTuple):
    """A request.

    Attributes:
        at: seconds after the start.
        task: position of its task in the system's tasks.
        prompt: tokens of its prompt.
        answer: tokens of its answer, which the client's limit sets.
        session: number of the session whose growing context its prompt is; None for a prompt without one.
    """

    at: float
    task: int
    prompt: int
    answer: int
    session: int | None = None
