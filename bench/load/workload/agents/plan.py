"""The sessions of an agent workload, and which tasks their agents have."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from sun_sglang.bench.load.workload.agents.session import Session
from sun_sglang.bench.load.workload.agents.workflow import Workflow
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.bench.load.workload.prompts.random_tokens import RandomTokens
from sun_sglang.bench.load.workload.seeds import stream


class SessionPlan:
    """Sessions: those that arrive in an open loop, or as many as the client starts in a closed loop.

    Args:
        tasks: names of the tasks. Up to as many as there are agents: the agents have them in this order, again from the
            first where there are fewer. More: each session draws its agents' tasks by popularity, no task twice.
        popularity: the popularity of the tasks.
        workflow: the calls of a session.
        ids: makes the tokens.
        seed: the benchmark's seed.
        due: times of arrival in seconds after the start; None for a closed loop.
        count: number of sessions of a closed loop; None: without end.
        origin: what the sessions were made from; JSON.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        popularity: Popularity,
        workflow: Workflow,
        ids: RandomTokens,
        seed: int,
        *,
        due: Iterable[float] | None,
        count: int | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.workflow = workflow
        self.origin = dict(origin or {})
        self._popularity = popularity
        self._ids = ids
        self._seed = seed
        self._due = array("d", (round(time, 6) for time in due)) if due is not None else None
        self.count = len(self._due) if self._due is not None else count

    @property
    def due(self) -> Sequence[float] | None:
        """When the sessions of an open loop arrive, in seconds after the start; None for a closed loop."""
        return self._due

    def session(self, number: int, elapsed: float = 0.0) -> Session:
        """Return a session.

        Args:
            number: its number, from 0.
            elapsed: of a closed loop, seconds after the start at which the client starts it.

        Raises:
            IndexError: the plan has no session of that number.
        """
        if number < 0 or (self.count is not None and number >= self.count):
            raise IndexError(number)
        due = self._due[number] if self._due is not None else None
        return Session(number, due, self._agents(number, elapsed if due is None else due), self.workflow, self._ids)

    def __iter__(self) -> Iterator[Session]:
        """Yield the sessions of an open loop in the order of arrival."""
        assert self._due is not None, "the client starts the sessions of a closed loop"
        return (self.session(number) for number in range(len(self._due)))

    def mix(self) -> dict[str, int]:
        """Return the calls of each task in an open loop, in the order of the tasks."""
        counts = dict.fromkeys(self.tasks, 0)
        for session in self:
            for call in range(session.calls):
                counts[session.task(call)] += 1
        return counts

    def sha256(self) -> str:
        """Return the SHA-256 that identifies the sessions: times, tasks, lengths, and the origin of the tokens."""
        digest = hashlib.sha256()
        rule = {"tasks": self.tasks, "popularity": self._popularity.describe(), "calls": self.workflow}
        digest.update(orjson.dumps({**rule, "prompts": self._ids.digest, "seed": self._seed, "count": self.count}))
        digest.update(orjson.dumps(list(self._due or ())))
        return digest.hexdigest()

    def _agents(self, number: int, elapsed: float) -> tuple[str, ...]:
        agents = self.workflow.agents
        if len(self.tasks) <= agents:
            return tuple(self.tasks[agent % len(self.tasks)] for agent in range(agents))
        # weighted draws without replacement: the smallest of exponential variables with the weights as rates
        rng = stream(self._seed, "agents", number)
        waits = [
            rng.expovariate(1.0) / weight if weight else math.inf for weight in self._popularity.probabilities(elapsed)
        ]
        drawn = sorted(range(len(waits)), key=waits.__getitem__)[:agents]
        return tuple(self.tasks[task] for task in sorted(drawn))
