"""The tokens of an emulated worker: text to token ids, and generated tokens that show which KV made them. Pure.

There is no tokenizer. A text counts one token for each `bytes_per_token` bytes of UTF-8, rounded up; a chat counts one
more for each message and one for the start of the answer. A generated token is a pseudo-random function of the prefill
worker's weights revision, the prompt and the position. So a test can compute the expected tokens, and it detects an
answer that was made from another task's KV. Where the decode worker makes the first token, a token is a function of the
decode worker's revision too. Where the prefill worker uses a LoRA adapter, tokens and the log probabilities of the
prompt are functions of the adapter's revision too.
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


def generation_seed(weights: str, prompt: Sequence[int], adapter: str = "") -> int:
    """Return the seed of all tokens generated for a prompt: 64 bits of a hash.

    Args:
        weights: revision of the weights.
        prompt: token ids.
        adapter: revision of the LoRA adapter; empty without one.
    """
    return int.from_bytes(_hash(weights, adapter, array("q", prompt).tobytes()).digest(), "big")


def decode_seed(kv: int, weights: str, last: int) -> int:
    """Return the seed of all tokens of an answer whose first token the decode worker makes.

    Args:
        kv: seed of the prompt without its last token, as the prefill worker sends it.
        weights: weights revision of the decode worker.
        last: the last token of the prompt.
    """
    return generation_seed(weights, [kv - (1 << 63), last])


def token_at(seed: int, position: int, vocab_size: int) -> int:
    """Return the token at a position of a generation (splitmix64).

    Args:
        seed: the result of `generation_seed`.
        position: index of the token, from 0.
        vocab_size: every token id is below this number.
    """
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) % vocab_size


def expected_tokens(
    weights: str,
    prompt: Sequence[int],
    count: int,
    vocab_size: int,
    *,
    decoder: str | None = None,
    adapter: str = "",
) -> list[int]:
    """Return the tokens that a pair of emulated workers generates.

    Args:
        weights: weights revision of the prefill worker.
        prompt: token ids.
        count: number of tokens.
        vocab_size: the prefill worker's vocabulary size.
        decoder: weights revision of the decode worker, where it makes the first token; else None.
        adapter: revision of the prefill worker's LoRA adapter; empty without one.
    """
    if decoder is None:
        seed = generation_seed(weights, prompt, adapter)
    else:
        seed = decode_seed(generation_seed(weights, prompt[:-1], adapter), decoder, prompt[-1])
    return [token_at(seed, i, vocab_size) for i in range(count)]


def logprob_of(token: int, position: int) -> float:
    """Return a made-up log probability of a generated token, between -4 and 0."""
    return -(token_at(token, position, 4000) + 1) / 1000


def prompt_logprobs(weights: str, prompt: Sequence[int], adapter: str = "") -> list[float]:
    """Return made-up log probabilities of each token of a prompt but the first, given those before it.

    Those of the base are between -5 and -1. An adapter changes each by less than 0.5.

    Args:
        weights: revision of the weights.
        prompt: token ids.
        adapter: revision of the LoRA adapter; empty without one.
    """
    base, change = _hash(weights, ""), _hash(weights, adapter)
    logprobs = []
    for token in prompt:
        for state in (base, change):
            state.update(token.to_bytes(8, "big", signed=True))
        logprob = -(1000 + int.from_bytes(base.digest(), "big") % 4000) / 1000
        effect = (int.from_bytes(change.digest(), "big") % 999 - 499) / 1000 if adapter else 0.0
        logprobs.append(logprob + effect)
    return logprobs[1:]


def _hash(weights: str, adapter: str, data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, key=weights.encode()[:64], salt=adapter.encode()[:16], digest_size=8)


@lru_cache(maxsize=4096)
def token_text(token: int) -> str:
    """Return the text of a token: a space and a word that no other token has."""
    text = _SYLLABLES[token % 100]
    while token := token // 100:
        text += _SYLLABLES[token % 100]
    return " " + text


def text_of(tokens: Sequence[int]) -> str:
    """Return the text of several tokens."""
    return "".join(map(token_text, tokens))


def encode(text: str, *, bytes_per_token: int, vocab_size: int) -> list[int]:
    """Return the token ids of a text.

    Args:
        text: the text.
        bytes_per_token: bytes of UTF-8 that count as one token.
        vocab_size: every token id is below this number.
    """
    raw = text.encode("utf-8", "surrogatepass")
    if bytes_per_token == 1:
        return [b % vocab_size for b in raw]
    groups = (raw[i : i + bytes_per_token] for i in range(0, len(raw), bytes_per_token))
    return [zlib.crc32(group) % vocab_size for group in groups]


def encode_chat(messages: Sequence[Mapping[str, Any]], *, bytes_per_token: int, vocab_size: int) -> list[int]:
    """Return the token ids of a chat: for each message its role and its text, and one id for the start of the answer.

    Args:
        messages: in OpenAI's format.
        bytes_per_token: bytes of UTF-8 that count as one token.
        vocab_size: every token id is below this number.
    """
    ids = []
    for message in messages:
        ids.append(zlib.crc32(str(message.get("role")).encode()) % vocab_size)
        ids += encode(_content_text(message.get("content")), bytes_per_token=bytes_per_token, vocab_size=vocab_size)
    return [*ids, zlib.crc32(b"assistant") % vocab_size]


def _content_text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
