"""The prompts that wait on a prefill worker, in order of arrival for each module. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sun_sglang.module_turns.policy import Waiting


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt on a prefill worker.

    Attributes:
        rid: id of the request.
        tokens: its tokens.
        computed: those that are not cached.
        adapter: the LoRA adapter that computes it; None for none.
        module: the module whose weights compute it; empty on a worker without modules.
        since: clock seconds of its arrival.
    """

    rid: str
    tokens: int
    computed: int
    adapter: str | None
    module: str
    since: float


class PromptQueues:
    """The queue of each module that has prompts."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Prompt]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    @property
    def tokens(self) -> int:
        """Uncached tokens of all prompts."""
        return sum(prompt.computed for queue in self._queues.values() for prompt in queue)

    def waiting(self) -> list[Waiting]:
        """Return the modules with prompts."""
        return [
            Waiting(module, queue[0].since, len(queue), sum(prompt.computed for prompt in queue))
            for module, queue in self._queues.items()
        ]

    def add(self, prompt: Prompt) -> None:
        """Append a prompt to the queue of its module."""
        self._queues.setdefault(prompt.module, deque()).append(prompt)

    def replace(self, module: str, prompts: deque[Prompt]) -> None:
        """Make these the waiting prompts of a module."""
        if prompts:
            self._queues[module] = prompts
        else:
            self._queues.pop(module, None)

    def of(self, module: str) -> deque[Prompt]:
        """Return the prompts of a module, the oldest first; write changes back with `replace`."""
        return self._queues.get(module, deque())

    def remove(self, rid: str) -> None:
        """Remove a prompt, if it is here."""
        for module, queue in list(self._queues.items()):
            if any(prompt.rid == rid for prompt in queue):
                self.replace(module, deque(prompt for prompt in queue if prompt.rid != rid))
