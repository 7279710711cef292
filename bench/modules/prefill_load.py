"""An open load on prefill workers: requests for tasks by a Zipf law, at random times. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from sun_sglang.bench.load.workload.popularity import Popularity


class Arrival(NamedTuple):
    """One request.

    Attributes:
        at: seconds.
        task: number of its task, 0 for the most popular one.
        prompt: tokens of its prompt.
    """

    at: float
    task: int
    prompt: int


@dataclass(frozen=True)
class PrefillLoad:
    """A Poisson process of requests.

    Attributes:
        tasks: number of tasks, each a module.
        zipf: exponent of their popularity.
        rate: requests a second.
        prompt: mean tokens of a prompt; lengths are uniform between a half and three halves of it.
        seconds: length of the window in which requests arrive.
    """

    tasks: int
    zipf: float
    rate: float
    prompt: int
    seconds: float

    def arrivals(self, seed: int) -> list[Arrival]:
        """Return the requests in order of time; equal seeds give equal ones."""
        draw, popularity = random.Random(seed), Popularity(self.tasks, self.zipf)
        found, at = [], draw.expovariate(self.rate)
        while at < self.seconds:
            task = popularity.task(draw.random(), 0.0)
            found.append(Arrival(at, task, draw.randint(self.prompt // 2, self.prompt * 3 // 2)))
            at += draw.expovariate(self.rate)
        return found
