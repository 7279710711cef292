"""Prompts of random token ids, and of blocks of them that prompts share: of the exact length that is wished."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from sun_sglang.bench.load.workload.seeds import random_bytes

_MOST_IDS = 1 << 24


def token_range(text: str) -> tuple[int, int]:
    """Return the lowest and the highest id of a range `LOW:HIGH`.

    Raises:
        ValueError: the text is no range.
    """
    low, _, high = text.partition(":")
    for number in (low, high):
        if not (number.isascii() and number.isdigit() and len(number) < 20 and int(number) < _MOST_IDS):
            raise ValueError(f"`{text}` is no range of token ids; write `LOW:HIGH`, such as `64:250`")
    if int(low) > int(high):
        raise ValueError(f"the lowest id, {low}, is above the highest, {high}")
    return int(low), int(high)


class TokenIds(Protocol):
    """Makes random token ids."""

    def __call__(self, number: int, *purpose: str | int) -> tuple[int, ...]:
        """Return the first ids of a purpose; more ids begin with the same ones."""


class RandomTokens:
    """Random ids from a range of the vocabulary that holds no special tokens.

    As a source of prompts, no two prompts share a prefix.

    Args:
        seed: the benchmark's seed.
        low: lowest id.
        high: highest id.
    """

    def __init__(self, seed: int, low: int, high: int) -> None:
        self._seed = seed
        self._low = low
        self._size = high - low + 1
        self.digest = f"random ids {low}:{high} seed {seed}"

    def __call__(self, number: int, *purpose: str | int) -> tuple[int, ...]:
        """Return the first ids of a purpose; more ids begin with the same ones."""
        low, size = self._low, self._size
        words = struct.unpack(f"<{number}I", random_bytes(4 * number, self._seed, "tokens", *purpose))
        return tuple([low + (word * size >> 32) for word in words])

    def prompt(self, index: int, task: str, tokens: int) -> tuple[int, ...]:
        """Return the prompt of a request."""
        return self(tokens, "prompt", index)


Block = tuple[str | int, ...]
"""What identifies a block of tokens: equal blocks have equal tokens."""


class SharedBlocks:
    """Prompts made of blocks: two prompts with equal blocks have equal tokens there, so a prefix cache can hit.

    Args:
        ids: makes the tokens of a block.
        blocks: the blocks of each request; a request without blocks has a prompt of its own.
        block_size: tokens in a block; the last block of a prompt may be shorter.
    """

    def __init__(self, ids: RandomTokens, blocks: Sequence[Sequence[Block]], block_size: int) -> None:
        self._ids = ids
        self._blocks = blocks
        self._block_size = block_size
        known = hashlib.sha256(repr([list(request) for request in blocks]).encode()).hexdigest()
        self.digest = f"{ids.digest} blocks of {block_size}: {known}"
        # a trace's prompts share their first blocks above all
        self._block = lru_cache(maxsize=256)(self._make)

    def prompt(self, index: int, task: str, tokens: int) -> tuple[int, ...]:
        """Return the prompt of a request."""
        if not self._blocks[index]:
            return self._ids.prompt(index, task, tokens)
        prompt: list[int] = []
        for block in self._blocks[index]:
            prompt += self._block(block)
        return tuple(prompt[:tokens])

    def _make(self, block: Block) -> tuple[int, ...]:
        return self._ids(self._block_size, "block", *block)
