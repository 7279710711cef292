"""The work that an answer is expected to bring, in tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.router.protocol.prompt_bytes import chat_bytes, text_bytes
from sun_sglang.router.protocol.request import Endpoint

# Weight of the newest answer in the mean: about the last fifty count.
_NEWEST = 0.02
_TOKEN_BYTES = 4


class Cost(NamedTuple):
    """What a request is expected to weigh on each side, in tokens; for comparing workers, not for limits."""

    prefill: int
    decode: int


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


def estimate(endpoint: Endpoint, body: Mapping[str, Any], expected: int = 0, most: int | None = None) -> Cost:
    """Expected work of an answer, with four bytes a token where there are no token ids.

    Args:
        endpoint: where the request came in.
        body: its body, with one prompt.
        expected: tokens to expect of an answer that the client sets no limit for.
        most: tokens that prompt and answer together can have, whatever limit the client sets.
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
