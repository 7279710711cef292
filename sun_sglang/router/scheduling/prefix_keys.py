"""Hashes of a prompt's beginning, by which policies recognise prompts that begin alike. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import orjson

from sun_sglang.router.protocol.request import Endpoint

_BLOCK_BYTES = 1024
_BLOCK_IDS = 256
_MOST_MESSAGES = 64
# The ends of the beginnings, in blocks. 64 hashes tell apart prompts that are equal for up to 155,000 tokens.
_ENDS = tuple(accumulate([1] * 32 + [4] * 16 + [32] * 16))


class PrefixKeys(NamedTuple):
    """Hashes of longer and longer beginnings of a prompt.

    Attributes:
        hashes: the shortest beginning first; 64 bits each.
        tokens: the estimated length of each beginning; empty where each is an earlier prompt as a whole, of messages or
            of a session that the client names.
    """

    hashes: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()


NO_KEYS = PrefixKeys()


def prefix_keys(endpoint: Endpoint, body: Mapping[str, Any], *, of: str, session: str | None = None) -> PrefixKeys:
    """Return hashes of longer and longer beginnings of a prompt, the shortest first; 1 to 64 of them.

    Two prompts have a key in common if they begin alike for a whole number of messages, or of blocks of text or tokens.
    Where the client names a session, that name alone is hashed.

    Args:
        endpoint: the endpoint of the request.
        body: the request's body, for one answer.
        of: the cache namespace, as far as it is fixed before a pair is selected. Prompts of different namespaces have
            no key in common.
        session: the client's name for the conversation.
    """
    state = hashlib.blake2b(of.encode(errors="surrogatepass"), digest_size=8)
    if session is not None:
        state.update(b"\0" + session.encode(errors="surrogatepass"))
        return PrefixKeys((_number(state.digest()),))
    hashes = []
    for piece in _pieces(endpoint, body):
        state.update(piece)
        hashes.append(_number(state.digest()))
    is_chat = endpoint is Endpoint.CHAT and not body.get("input_ids")
    return PrefixKeys(tuple(hashes), () if is_chat else tuple(end * _BLOCK_IDS for end in _ENDS[: len(hashes)]))


def _pieces(endpoint: Endpoint, body: Mapping[str, Any]) -> Iterable[bytes]:
    ids = body.get("prompt") if endpoint is Endpoint.COMPLETIONS else body.get("input_ids")
    if isinstance(ids, list):
        return (orjson.dumps(block) for block in _blocks(ids, _BLOCK_IDS))
    if endpoint is Endpoint.CHAT:
        return (orjson.dumps(message) for message in body["messages"][:_MOST_MESSAGES])
    text = body.get("prompt" if endpoint is Endpoint.COMPLETIONS else "text") or ""
    return _blocks(text[: _BLOCK_BYTES * _ENDS[-1]].encode(errors="surrogatepass"), _BLOCK_BYTES)


def _blocks(whole: Any, size: int) -> Iterable[Any]:
    """Return the pieces between the ends, which a longer prompt has too; all of it if it is shorter than one block."""
    if len(whole) < size:
        return (whole,)
    ends = (end * size for end in _ENDS if end * size <= len(whole))
    return (whole[start:end] for start, end in pairwise((0, *ends)))


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")
