"""The contents of the slots of a decode worker's pools, for the tests of the decode cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Content(NamedTuple):
    """The content of a slot: the KV of the last token of a text, or the state after it.

    Attributes:
        text: the number of the text (`Texts`).
        module: `prefill`, or `decode` once one token was computed there; empty for memory that was never written.
    """

    text: int
    module: str


NOTHING = Content(0, "")


class Texts:
    """Numbers for texts, so that two texts have one number if they are equal."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}

    def of_prefixes(self, tokens: Sequence[int]) -> list[int]:
        """Return the numbers of all prefixes, from one token to all."""
        found, number = [], 0
        for token in tokens:
            number = self._numbers.setdefault((number, token), len(self._numbers) + 1)
            found.append(number)
        return found


class Reuse(NamedTuple):
    """The contents that a request would take from the cache.

    Attributes:
        kv: the contents of its KV slots, one for each token.
        window_kv: of its window slots, for the last tokens that a window holds.
        state: of its Mamba state; None without one.
    """

    kv: list[Content]
    window_kv: list[Content]
    state: Content | None
