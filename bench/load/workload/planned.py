"""One request of a benchmark, and a plan: every request of an open loop or of a trace.

A plan holds one number a request for each property, and makes a prompt when it is asked for: 100,000 requests of 4,000
tokens take 3 MB, not 3 GB.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload

import orjson


@dataclass(frozen=True, slots=True)
class Chat:
    """The messages of a conversation, for the endpoint of chats; each has `role` and `content`."""

    messages: tuple[Mapping[str, str], ...]


Prompt = tuple[int, ...] | str | Chat
"""Token ids, a text, or a conversation."""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request to send.

    Attributes:
        index: position in the plan, from 0.
        task: the task, which is the request's `model`.
        due: seconds after the start of the run; None in a closed loop and for the later calls of a session.
        prompt: token ids, a text or a conversation.
        output_tokens: tokens to generate: enforced, and verified.
        session: number of the session, of agent workloads.
    """

    index: int
    task: str
    due: float | None
    prompt: Prompt
    output_tokens: int
    session: int | None = None


class PromptSource(Protocol):
    """Where prompts come from. A prompt depends on the arguments alone, in whichever order prompts are asked for."""

    @property
    def digest(self) -> str:
        """Text that identifies the content: two sources with one digest make the same prompts."""

    def prompt(self, index: int, task: str, tokens: int) -> Prompt:
        """Return the prompt of a request: `tokens` ids, or a text of the dataset, whose length stays as it is."""


class PlannedRow(NamedTuple):
    """A request without its prompt.

    Attributes:
        due: seconds after the start.
        task: position in the plan's tasks.
        input_tokens: length of the prompt; 0 for a prompt of a dataset, which has the length that it has.
        output_tokens: tokens to generate.
    """

    due: float
    task: int
    input_tokens: int
    output_tokens: int


class Plan(Sequence[PlannedRequest]):
    """Every request of an open loop or a trace, in the order of arrival. Indexing makes the request with its prompt.

    Args:
        tasks: names of the tasks.
        rows: the requests, in the order of arrival.
        source: the source of the prompts.
        origin: what the requests were made from, such as a trace's name and SHA-256; JSON.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        rows: Iterable[PlannedRow],
        source: PromptSource,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.origin = dict(origin or {})
        self._source = source
        self._due = array("d")
        self._task = array("H")
        self._input = array("L")
        self._output = array("L")
        for row in rows:
            # microseconds: a time does not differ in its last bit between two C libraries
            self._due.append(round(row.due, 6))
            self._task.append(row.task)
            self._input.append(row.input_tokens)
            self._output.append(row.output_tokens)

    def __len__(self) -> int:
        return len(self._due)

    @overload
    def __getitem__(self, index: int) -> PlannedRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlannedRequest]: ...
    def __getitem__(self, index: int | slice) -> PlannedRequest | Sequence[PlannedRequest]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        task = self.tasks[self._task[at]]
        prompt = self._source.prompt(at, task, self._input[at])
        return PlannedRequest(at, task, self._due[at], prompt, self._output[at])

    def row(self, index: int) -> PlannedRow:
        """Return a request without its prompt."""
        return PlannedRow(self._due[index], self._task[index], self._input[index], self._output[index])

    def due(self, index: int) -> float:
        """Return the time of arrival of a request, in seconds after the start, without making its prompt."""
        return self._due[index]

    def mix(self) -> dict[str, int]:
        """Return the realised mix: the number of requests of each task, in the order of the tasks."""
        counts = [0] * len(self.tasks)
        for task in self._task:
            counts[task] += 1
        return dict(zip(self.tasks, counts, strict=True))

    def sha256(self) -> str:
        """Return the SHA-256 that identifies the plan: times, tasks, lengths, and the origin of the prompts."""
        digest = hashlib.sha256()
        digest.update(orjson.dumps({"tasks": self.tasks, "prompts": self._source.digest, "columns": 1}))
        for index in range(len(self)):
            digest.update(orjson.dumps(tuple(self.row(index))))
        return digest.hexdigest()

    def lines(self) -> Iterator[bytes]:
        """Yield each request with its prompt as a line of JSON, with the newline."""
        for request in self:
            yield orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)
