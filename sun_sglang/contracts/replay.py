"""The tokens of a stream, which the router keeps, and the tokens that it lets another decode worker repeat.

A decode worker that is lost takes the answers in its batch with it. The router sends such a request to another pair of
workers, with the output tokens of which it has heard. The prefill worker computes the prompt, and both workers replace
each token that they sample by the one that was given, until none is left: the decode worker computes the KV of the
answer in the same steps as the first one did, and every state that depends on the answer (penalties, grammars, stop
rules, counts) passes through the same values. Prefilling prompt and answer would not do: the task's prefill module
would make the KV of the answer.

The mark is part of the field `extra_key`, whose value the router makes (`router/dispatch/legs/leg_bodies.py`): a
client's own key is only ever the last part of that value. SGLang workers read it in `patches/replay/`, and emulated
workers in `emulator/protocol/request_parser.py`. Both remove it before the field divides their caches.

A decode leg with the mark streams its token ids: before the data of an event stands a comment line with the output
tokens that the worker has made since the event before. Every event stands after the ids of all tokens that it shows.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

from sun_sglang.contracts.first_token import mark_decode_first, read_mark

HOOK: Final = "stream_tokens"
"""The name of the hook by which an SGLang worker reads the mark, as the worker's card reports it."""

# no namespace begins with `@`: it begins with the name of a pool
_MARK: Final = re.compile(r"@tokens:([A-Za-z0-9+/=]*)@")
TOKENS_COMMENT: Final = b": tokens "
"""The begin of a comment line with tokens."""


class Replay(NamedTuple):
    """A value of `extra_key`, split.

    Attributes:
        tokens: the output tokens to repeat; empty for a request that only reports its tokens; None without a mark.
        extra_key: the value without the mark, with the mark of `first_token.py` if it has one.
    """

    tokens: array[int] | None
    extra_key: str | None


def mark_replay(extra_key: str, tokens: Iterable[int] = ()) -> str:
    """Return the value of `extra_key` for a leg that reports its tokens.

    Args:
        extra_key: the value without this mark.
        tokens: the first output tokens, which the worker repeats: ids from 0 to 2^31 - 1.
    """
    ids = array("i", tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    mark = f"@tokens:{base64.b64encode(ids.tobytes()).decode()}@"
    first = read_mark(extra_key)
    if not first.decode_first:
        return mark + extra_key
    # the mark of the first token is the outermost one: hooks that know no other read it
    return mark_decode_first(mark + (first.namespace or ""))


def read_replay(extra_key: object) -> Replay:
    """Split the value of `extra_key`; a value that is no string has no mark.

    Raises:
        ValueError: the tokens of the mark are no list of 32-bit integers.
    """
    if not isinstance(extra_key, str):
        return Replay(None, None)
    first = read_mark(extra_key)
    found = _MARK.match(first.namespace or "")
    if found is None:
        return Replay(None, extra_key)
    rest = (first.namespace or "")[found.end() :]
    ids = array("i")
    try:
        ids.frombytes(base64.b64decode(found[1], validate=True))
    except (binascii.Error, ValueError) as e:
        raise ValueError("`extra_key` holds a list of tokens that cannot be read") from e
    if sys.byteorder == "big":
        ids.byteswap()
    return Replay(ids, mark_decode_first(rest) if first.decode_first else rest)


def require_known(tokens: array[int], vocab_size: int) -> None:
    """Raise unless a model has every token that a request repeats.

    Args:
        tokens: at least one.
        vocab_size: of the model.

    Raises:
        ValueError: the model does not have one of them.
    """
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        raise ValueError(f"a token to repeat is not one of the model's {vocab_size}")


def tokens_comment(tokens: Iterable[int]) -> bytes:
    """Return the comment line with the tokens that the next event may show."""
    return TOKENS_COMMENT + b",".join(b"%d" % token for token in tokens) + b"\n"
