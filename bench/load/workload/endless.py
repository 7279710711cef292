"""The requests of a closed loop: as many as the client asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from sun_sglang.bench.load.workload.planned import PlannedRequest, PromptSource
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.bench.load.workload.seeds import Draws


class EndlessPlan:
    """Requests by number.

    Args:
        tasks: names of the tasks.
        popularity: the popularity of the tasks.
        draws: uniform draws for the tasks, input lengths, output lengths.
        source: the source of the prompts.
        count: number of requests; None: without end.
        origin: what the requests are made from; JSON.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        popularity: Popularity,
        draws: tuple[Draws, Draws, Draws],
        source: PromptSource,
        *,
        count: int | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.count = count
        self.origin = dict(origin or {})
        self._popularity = popularity
        self._task, self._input, self._output = draws
        self._source = source

    def request(self, index: int, elapsed: float) -> PlannedRequest:
        """Return a request.

        Args:
            index: its number, from 0, in the order of sending.
            elapsed: seconds after the start at which it is sent: a shift of the hot task depends on it.

        Raises:
            IndexError: the plan has no request of that number.
        """
        if index < 0 or (self.count is not None and index >= self.count):
            raise IndexError(index)
        task = self.tasks[self._popularity.task(self._task[index], elapsed)]
        prompt = self._source.prompt(index, task, int(self._input[index]))
        return PlannedRequest(index, task, None, prompt, int(self._output[index]))

    def sha256(self) -> str:
        """Return the SHA-256 that identifies the requests: their first 1,000 draws, and the origin of the prompts."""
        shown = range(min(self.count or 1_000, 1_000))
        columns = [[column[i] for i in shown] for column in (self._task, self._input, self._output)]
        rule = {"tasks": self.tasks, "popularity": self._popularity.describe(), "count": self.count}
        return hashlib.sha256(orjson.dumps({**rule, "columns": columns, "prompts": self._source.digest})).hexdigest()
