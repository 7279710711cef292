"""How long a task's answers are, for requests that set no limit. Pure."""

from __future__ import annotations

# Weight of the newest answer in the mean: about the last fifty count.
_NEWEST = 0.02


class AnswerLengths:
    """A running mean of each task's answers, in tokens."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def note(self, task: str, tokens: int) -> None:
        """An answer of a task ended with this many tokens."""
        mean = self._means.get(task)
        self._means[task] = tokens if mean is None else mean + _NEWEST * (tokens - mean)

    def expected(self, task: str) -> int:
        """Tokens to expect of an answer; 0 before the first has ended."""
        return round(self._means.get(task, 0.0))
