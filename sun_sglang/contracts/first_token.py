"""Which side of a pair makes the first output token, and the mark by which both workers know it.

With `prefill` the prefill worker computes the whole prompt, samples the first token and hands it over with the KV.
With `decode` the prefill worker computes the prompt without its last token, and the decode worker runs that token on
the KV it received and samples the first token with its own weights. The mode belongs to a pair of modules, so the
requests of one worker may have different modes.

The mark is part of the field `extra_key`, whose value the router makes (`router/dispatch/legs/leg_bodies.py`): a
client's own key is only ever the last part of that value. SGLang workers read it in
`patches/first_token/split_prompt.py`, and emulated workers in `emulator/protocol/request_parser.py`. Both remove it
before the field divides their caches, so requests of both modes share the KV of equal prompts.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sun_sglang.contracts.scheme import Side
from sun_sglang.contracts.worker_card import WorkerCard

HOOK: Final = "split_prompt.split"
"""The name of the hook by which an SGLang worker reads the mark, as the worker's card reports it."""

ONE_TOKEN: Final = (
    "the prompt has one token, and this task needs two: its decode module runs the last token of a prompt, and its "
    "prefill module those before it"
)
# no namespace begins with `@`: it begins with the name of a pool
_MARK: Final = "@first-token-from-decode@"


class Mark(NamedTuple):
    """A value of `extra_key`, split.

    Attributes:
        decode_first: the decode worker makes the first token.
        namespace: the value without the mark.
    """

    decode_first: bool
    namespace: str | None


def mark_decode_first(namespace: str) -> str:
    """Return the value of `extra_key` for a request whose first token the decode worker makes."""
    return _MARK + namespace


def read_mark(extra_key: object) -> Mark:
    """Split the value of `extra_key`; a value that is no string has no mark and no namespace."""
    if not isinstance(extra_key, str):
        return Mark(False, None)
    if extra_key.startswith(_MARK):
        return Mark(True, extra_key.removeprefix(_MARK))
    return Mark(False, extra_key)


def first_token_side(*, tuned_for: str, decoder: str, of_prefill: Side, of_decode: Side) -> Side:
    """Return the side that makes the first token of a pair of modules.

    A prefill module that was tuned for this very decoder decides. Otherwise the decode module may have been tuned on
    the KV of the prefill module, which was not tuned, and an untuned module counts as `prefill`.

    Args:
        tuned_for: revision of the decoder for which the prefill module was tuned; empty if it was not tuned.
        decoder: revision of the decode module.
        of_prefill: `first_token` of the prefill module.
        of_decode: `first_token` of the decode module.
    """
    if tuned_for and tuned_for == decoder:
        return of_prefill
    return "decode" if "decode" in (of_prefill, of_decode) else "prefill"


def first_token_of(prefill: WorkerCard, decode: WorkerCard) -> Side:
    """Return the side that makes the first token of requests that these two workers serve together."""
    return first_token_side(
        tuned_for=prefill.tuned_for,
        decoder=decode.decoder,
        of_prefill=prefill.first_token,
        of_decode=decode.first_token,
    )
