"""Hashes of a prompt's beginning, by which policies recognise prompts that begin alike. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.scheduling.cost import TOKEN_BYTES

_BLOCK_BYTES = 1024
_BLOCK_IDS = 256
MAX_BLOCKS = 64
"""Hashes of a prompt at most. The last one stands for all that follows."""


class PrefixKeys(NamedTuple):
    """Hashes of longer and longer beginnings of a prompt.

    Attributes:
        hashes: the shortest beginning first; 64 bits each.
        block: tokens that each hash covers more than the one before it; 0 where each covers an earlier prompt as a
            whole, of messages or of a session that the client names.
    """

    hashes: tuple[int, ...] = ()
    block: int = 0


NO_KEYS = PrefixKeys()


def prefix_keys(endpoint: Endpoint, body: Mapping[str, Any], *, of: str, session: str | None = None) -> PrefixKeys:
    """Return hashes of longer and longer beginnings of a prompt, the shortest first; 1 to 64 of them, of 64 bits.

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
    pieces, block = _pieces(endpoint, body)
    hashes = []
    for piece in pieces:
        state.update(piece)
        hashes.append(_number(state.digest()))
    return PrefixKeys(tuple(hashes), block)


def _pieces(endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[Iterable[bytes], int]:
    """Return the pieces of a prompt, and the tokens of a piece (`PrefixKeys.block`)."""
    ids = body.get("prompt") if endpoint is Endpoint.COMPLETIONS else body.get("input_ids")
    if isinstance(ids, list):
        ids = ids[: _BLOCK_IDS * MAX_BLOCKS]
        return (orjson.dumps(block) for block in _blocks(ids, _BLOCK_IDS)), _BLOCK_IDS
    if endpoint is Endpoint.CHAT:
        return (orjson.dumps(message) for message in body["messages"][:MAX_BLOCKS]), 0
    text = body.get("prompt" if endpoint is Endpoint.COMPLETIONS else "text") or ""
    raw = text[: _BLOCK_BYTES * MAX_BLOCKS].encode(errors="surrogatepass")
    return _blocks(raw, _BLOCK_BYTES), _BLOCK_BYTES // TOKEN_BYTES


def _blocks(whole: Any, size: int) -> Iterable[Any]:
    """Return the whole blocks, which a longer prompt has too; all of it if it is shorter than one block."""
    if len(whole) < size:
        return (whole,)
    return (whole[i : i + size] for i in range(0, len(whole) - size + 1, size))


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")
