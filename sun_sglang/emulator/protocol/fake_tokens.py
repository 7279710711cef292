"""What an emulated worker reads and says: text to token ids, and answers that show what they were made from. Pure.

There is no tokenizer. Text counts one token for every `bytes_per_token` bytes of UTF-8, begun groups too; a chat counts
one more for each message and one for the answer that is to follow. Tokens of an answer are pseudo-random numbers of the
prefill worker's weights, the prompt and the position, so a test can say exactly what has to come, and an answer that
was made from another task's KV is seen.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

_MASK = (1 << 64) - 1
_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou"]


def generation_seed(weights: str, prompt: Sequence[int]) -> int:
    """The number that an answer's tokens follow from."""
    digest = hashlib.blake2b(array("q", prompt).tobytes(), key=weights.encode()[:64], digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def token_at(seed: int, position: int, vocab_size: int) -> int:
    """The answer's token at `position`, from 0 (splitmix64)."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) % vocab_size


def expected_tokens(weights: str, prompt: Sequence[int], count: int, vocab_size: int) -> list[int]:
    """The first `count` tokens that a pair answers with, whose prefill worker has these weights."""
    seed = generation_seed(weights, prompt)
    return [token_at(seed, i, vocab_size) for i in range(count)]


def logprob_of(token: int, position: int) -> float:
    """A log probability for a token; only its shape and range mean anything."""
    return -(token_at(token, position, 4000) + 1) / 1000


@lru_cache(maxsize=4096)
def token_text(token: int) -> str:
    """A token as text: a space and a word that no other token has."""
    said = _SYLLABLES[token % 100]
    while token := token // 100:
        said += _SYLLABLES[token % 100]
    return " " + said


def text_of(tokens: Sequence[int]) -> str:
    """Tokens as text."""
    return "".join(map(token_text, tokens))


def encode(text: str, *, bytes_per_token: int, vocab_size: int) -> list[int]:
    """Text as token ids."""
    raw = text.encode("utf-8", "surrogatepass")
    if bytes_per_token == 1:
        return [b % vocab_size for b in raw]
    groups = (raw[i : i + bytes_per_token] for i in range(0, len(raw), bytes_per_token))
    return [zlib.crc32(group) % vocab_size for group in groups]


def encode_chat(messages: Sequence[Mapping[str, Any]], *, bytes_per_token: int, vocab_size: int) -> list[int]:
    """A chat as token ids: one for each role, its text, and one for the answer's start."""
    ids = []
    for message in messages:
        ids.append(zlib.crc32(str(message.get("role")).encode()) % vocab_size)
        ids += encode(_text_of(message.get("content")), bytes_per_token=bytes_per_token, vocab_size=vocab_size)
    return [*ids, zlib.crc32(b"assistant") % vocab_size]


def _text_of(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
