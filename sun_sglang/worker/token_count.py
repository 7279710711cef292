"""Count the tokens of a prompt at a cost that depends on the limit and not on the text.

A text that is far too long is counted window by window, and only until the count is over the limit. A cut between two
windows may add or hide a few tokens. So a count near the limit is repeated over the whole text, which then has about as
many tokens as a prompt that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sun_sglang.contracts.token_count import TokenCount

WINDOW = 1 << 16
"""Characters per window."""
# tokens that one cut may add or hide
_PER_CUT = 4


def count_tokens(text: str, most: int, count: Callable[[str], int]) -> TokenCount:
    """Count the tokens of a text as far as needed to compare it with a limit.

    Args:
        text: the prompt.
        most: the limit, in tokens.
        count: returns the number of tokens of a text.
    """
    if len(text) <= WINDOW:
        return TokenCount(count(text), exact=True)
    total = cuts = 0
    for start in range(0, len(text), WINDOW):
        total += count(text[start : start + WINDOW])
        if total - _uncertainty(most, cuts) > most:
            return TokenCount(total, exact=False)
        cuts += 1
    if total + _uncertainty(most, cuts) <= most:
        return TokenCount(total, exact=False)
    return TokenCount(count(text), exact=True)


def _uncertainty(most: int, cuts: int) -> int:
    """Return by how many tokens a count over windows may differ from the exact count."""
    return most // 8 + _PER_CUT * cuts


def make_counter(tokenizer: Any) -> Callable[[str], int]:
    """Return a function that counts the ids of `tokenizer.encode(text, add_special_tokens=False)`, for another thread.

    A fast tokenizer is copied, since two threads cannot use it at once. The copy releases the GIL while it counts.

    Args:
        tokenizer: a tokenizer of transformers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()

    def count(text: str) -> int:
        # `encode` of a single text holds the GIL
        return len(copy.encode_batch_fast([text], add_special_tokens=False)[0])

    return count


class CountingTokenizer:
    """A stand-in for a tokenizer of transformers: `encode` returns as many zeros as a text has tokens.

    For a text over the limit it returns a number of zeros that is certainly over the limit.

    Args:
        tokenizer: the tokenizer.
        count: counts a text's tokens, without special ones.
        most: the limit, in tokens.

    Attributes:
        exact: whether every count so far was exact.
    """

    def __init__(self, tokenizer: Any, count: Callable[[str], int], most: int) -> None:
        self.exact = True
        self._tokenizer = tokenizer
        self._count = count
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return one zero for each token of a text, special tokens included if `add_special_tokens` is set."""
        special = self._tokenizer.num_special_tokens_to_add() if add_special_tokens else 0
        found = count_tokens(text, self._most - special, self._count)
        self.exact = self.exact and found.exact
        return [0] * (found.tokens + special)
