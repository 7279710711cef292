"""The expected work of an answer, in tokens: of its prompt by size, of its output by the client's limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.autoscaling.demand import Demand, answer_demand
from sun_sglang.router.protocol.prompt_bytes import chat_bytes, text_bytes
from sun_sglang.router.protocol.request import Endpoint

# Weight of the newest answer in the mean: about the last fifty answers count.
_NEWEST = 0.02
_TOKEN_BYTES = 4


class Cost(NamedTuple):
    """The expected work of an answer on each side, in tokens. It serves to compare workers, and limits nothing."""

    prefill: int
    decode: int


def uncached_tokens(prompt: int, page: int) -> int:
    """Return the tokens that a worker computes of a prompt that its cache holds.

    The cache finds whole pages, and never the last token: a worker computes that one for the first answer token.

    Args:
        prompt: tokens of the prompt, at least 1.
        page: tokens of a page; 0 if it is not known.
    """
    return (prompt - 1) % max(1, page) + 1


class _Moments(NamedTuple):
    """Running means of the output of a task's answers, in tokens, and of its square."""

    mean: float
    square: float


class OutputLengths:
    """A running mean of the output of each task's answers, in tokens, for requests that set no limit."""

    def __init__(self) -> None:
        self._moments: dict[str, _Moments] = {}
        self._all: _Moments | None = None

    def record(self, task: str, tokens: int) -> None:
        """Count an answer of a task that ended with this many output tokens."""
        self._moments[task] = _after(self._moments.get(task), tokens)
        self._all = _after(self._all, tokens)

    def expected(self, task: str) -> int:
        """Return the expected output of an answer, in tokens; 0 before the first answer of the task has ended."""
        return round(self._moments[task].mean) if task in self._moments else 0

    def demand(self, task: str, cost: Cost) -> Demand:
        """Return the expected decode work of an answer.

        The client's limit is mostly far above the answer, so it counts only before any answer has ended. Later the mean
        of the task's answers counts, or of all answers where the task has none yet. The smaller of limit and mean would
        be too small on average where limits are near the answers.

        Args:
            task: its task.
            cost: its expected work with the client's limit.
        """
        known = self._moments.get(task, self._all)
        if known is None:
            return answer_demand(cost.prefill, cost.decode - cost.prefill)
        return answer_demand(cost.prefill, *known)


def _after(moments: _Moments | None, tokens: int) -> _Moments:
    if moments is None:
        return _Moments(tokens, tokens * tokens)
    mean, square = moments
    return _Moments(mean + _NEWEST * (tokens - mean), square + _NEWEST * (tokens * tokens - square))


def estimate_cost(endpoint: Endpoint, body: Mapping[str, Any], expected: int = 0, most: int | None = None) -> Cost:
    """Return the expected work of an answer; text counts as four bytes a token.

    Args:
        endpoint: the endpoint of the request.
        body: its body, with one prompt.
        expected: expected output in tokens, if the client sets no limit.
        most: the most tokens that prompt and output can have together, whatever limit the client sets.
    """
    match endpoint:
        case Endpoint.GENERATE:
            prompt = _tokens(body.get("input_ids") or body.get("text"))
            output = (body.get("sampling_params") or {}).get("max_new_tokens")
        case Endpoint.COMPLETIONS:
            prompt, output = _tokens(body.get("prompt")), body.get("max_tokens")
        case Endpoint.CHAT:
            prompt = len(body["input_ids"]) if body.get("input_ids") else chat_bytes(body) // _TOKEN_BYTES + 1
            output = body.get("max_completion_tokens") or body.get("max_tokens")
    both = prompt + max(0, expected if output is None else output)
    return Cost(prompt, both if most is None else max(prompt, min(both, most)))


def _tokens(prompt: Any) -> int:
    return text_bytes(prompt) // _TOKEN_BYTES + 1 if isinstance(prompt, str) else len(prompt)
