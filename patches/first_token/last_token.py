"""The last prompt token of a request whose first output token the decode worker makes.

SGLang passes `sampling_params.custom_params` from the tokenizer to every rank and keeps it with the request; the token
travels there. A client cannot set the field: the router refuses it (`router/protocol/fields/table.py`).
"""

from __future__ import annotations

import copy
from typing import Any

REMOVABLE_WHEN = "when SGLang's decode worker can run the last prompt token itself"
"""When the hooks of this folder can be removed, each of them."""

TOKEN_KEY = "sun_last_prompt_token"
ROW_KEY = "sun_last_prompt_row"  # the reply has the logprob of this token
_STANDS_IN = "sun_last_token_stands_in"


def last_prompt_token(req: Any) -> int | None:
    """Return the token that the decode worker runs first; None for a request of the other mode."""
    custom: dict[str, Any] | None = req.sampling_params.custom_params
    return custom.get(TOKEN_KEY) if custom else None


def needs_last_row(req: Any) -> bool:
    """Return whether the reply to a request has the logprob of its last prompt token."""
    custom: dict[str, Any] | None = req.sampling_params.custom_params
    return bool(custom and custom.get(ROW_KEY))


def stands_in(req: Any) -> bool:
    """Return whether the last prompt token is the only entry of `output_ids`, as the handed-over token would be."""
    return getattr(req, _STANDS_IN, False)


def has_no_output(req: Any) -> bool:
    """Return whether no output token of a request of this mode was sampled yet; False for the other mode."""
    return stands_in(req) or (not req.output_ids and last_prompt_token(req) is not None)


def prefilled_tokens(req: Any) -> int:
    """Return how many tokens at the start of a request's prompt have KV that a prefill worker made."""
    tokens = len(req.origin_input_ids)
    return tokens if stands_in(req) or last_prompt_token(req) is None else tokens - 1


def note_stands_in(req: Any) -> None:
    """Record that the last prompt token is in `output_ids`."""
    setattr(req, _STANDS_IN, True)


def move_to_prompt(req: Any) -> None:
    """Move the last prompt token from `output_ids` to the end of the prompt."""
    token = req.output_ids.pop()
    _set_prompt(req, lambda ids: ids.append(token))
    setattr(req, _STANDS_IN, False)


def move_to_output(req: Any) -> None:
    """Move the last prompt token from the end of the prompt to the empty `output_ids`."""
    req.output_ids.append(req.origin_input_ids[-1])
    _set_prompt(req, lambda ids: ids.pop())
    setattr(req, _STANDS_IN, True)


def _set_prompt(req: Any, change: Any) -> None:
    """Change the prompt in a copy: a key of the cache may refer to the sequence."""
    before, unpadded = req.origin_input_ids, req.origin_input_ids_unpadded
    req.origin_input_ids = copy.copy(before)
    change(req.origin_input_ids)
    if unpadded is before:
        req.origin_input_ids_unpadded = req.origin_input_ids
    else:
        req.origin_input_ids_unpadded = copy.copy(unpadded)
        change(req.origin_input_ids_unpadded)
