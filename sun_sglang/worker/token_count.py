"""Counting a prompt's tokens at a worker, at a cost that the limit bounds and not the text.

A text that is far too long need not be tokenized to its end: it is counted window by window until it is over the limit.
A cut between two windows may add or hide a few tokens, so a count near the limit is made again over the whole text,
which then has about as many tokens as a prompt that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sun_sglang.contracts.token_count import TokenCount

WINDOW = 1 << 16
"""Characters that are tokenized at once."""
_PER_CUT = 4


def count_tokens(text: str, most: int, count: Callable[[str], int]) -> TokenCount:
    """Count the tokens of a text as far as a limit needs it.

    Args:
        text: the prompt.
        most: the limit, in tokens.
        count: the tokenizer: returns how many tokens a text has.
    """
    if len(text) <= WINDOW:
        return TokenCount(count(text), exact=True)
    total = cuts = 0
    for start in range(0, len(text), WINDOW):
        total += count(text[start : start + WINDOW])
        if total - _doubt(most, cuts) > most:
            return TokenCount(total, exact=False)
        cuts += 1
    if total + _doubt(most, cuts) <= most:
        return TokenCount(total, exact=False)
    return TokenCount(count(text), exact=True)


def _doubt(most: int, cuts: int) -> int:
    return most // 8 + _PER_CUT * cuts


def private_count(tokenizer: Any) -> Callable[[str], int]:
    """Return a counter for a thread of its own, of what `tokenizer.encode(text, add_special_tokens=False)` gives.

    A fast tokenizer is copied: it cannot be used by two threads at once. The copy releases the GIL while it counts.

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
        # `encode` of a single text keeps the GIL
        return len(copy.encode_batch_fast([text], add_special_tokens=False)[0])

    return count


class CountingTokenizer:
    """Stands in for a tokenizer of transformers: `encode` returns as many zeros as a text has tokens.

    It returns about `most` of them where there are more.

    Args:
        tokenizer: the tokenizer.
        count: counts a text's tokens, without special ones.
        most: the limit, in tokens.

    Attributes:
        exact: the last count was.
    """

    def __init__(self, tokenizer: Any, count: Callable[[str], int], most: int) -> None:
        self.exact = True
        self._tokenizer = tokenizer
        self._count = count
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Count a text's tokens, with the special ones that are added to every text if asked to."""
        special = self._tokenizer.num_special_tokens_to_add() if add_special_tokens else 0
        found = count_tokens(text, self._most - special, self._count)
        self.exact = self.exact and found.exact
        return [0] * (found.tokens + special)
