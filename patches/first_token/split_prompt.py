"""Split the last token off the prompt of a request whose first output token the decode worker makes.

Both workers of a pair do the same, before anything else sees the length of the prompt. A prompt of one token leaves
nothing to prefill: the server answers 400 before its scheduler receives the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sun_sglang.contracts.first_token import ONE_TOKEN, read_mark
from sun_sglang.patches.first_token.last_token import REMOVABLE_WHEN, ROW_KEY, TOKEN_KEY
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_WHY = "the first token would come from the prefill module, and for some tasks the decode module was tuned to make it"


def require_two_tokens(_result: None, _manager: Any, request: Any, input_ids: Sequence[int] | None) -> None:
    """Refuse a prompt of one token where the last one is not for the prefill worker.

    Raises:
        ValueError: SGLang answers 400 with the message.
    """
    if read_mark(getattr(request, "extra_key", None)).decode_first and len(input_ids or ()) < 2:
        raise ValueError(ONE_TOKEN)


def split_prompt(scheduler: Any, request: Any, **_kwargs: Any) -> None:
    """Remove the mark and the last prompt token from a request, and keep the token with its sampling parameters.

    A pipeline rank passes the changed request on to the next rank, which finds no mark and the token in its place.
    SGLang limits an answer to the context that the prompt leaves (`init_req_max_new_tokens`); the limit here is that of
    the whole prompt.

    Args:
        scheduler: SGLang's `Scheduler`.
        request: SGLang's `TokenizedGenerateReqInput`. Its prompt is an array of token ids.
    """
    mark = read_mark(request.extra_key)
    if not mark.decode_first:
        return
    request.extra_key = mark.namespace
    tokens = len(request.input_ids)
    if tokens < 2:
        return  # the server refuses such a prompt; a scheduler would end on an empty one
    kept: dict[str, Any] = {TOKEN_KEY: int(request.input_ids[-1])}
    request.input_ids = request.input_ids[:-1]
    if request.return_logprob and request.logprob_start_len == tokens:
        request.logprob_start_len = tokens - 1  # none of the prompt, which is now one token shorter
    elif request.return_logprob and 0 <= request.logprob_start_len < tokens:
        kept[ROW_KEY] = True
    params, room = request.sampling_params, max(0, scheduler.max_req_len - tokens - 1)
    params.max_new_tokens = room if params.max_new_tokens is None else min(params.max_new_tokens, room)
    params.custom_params = {**(params.custom_params or {}), **kept}


CHECK = Patch(
    name="split_prompt.check",
    target="sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request",
    parameters=(("self", "obj", "input_ids"),),
    kind="after",
    hook=require_two_tokens,
    why="a scheduler would receive a prompt without a token",
    versions=on("refuses a prompt of one token where the decode worker makes the first output token"),
    removable_when=REMOVABLE_WHEN,
)
SPLIT = Patch(
    name="split_prompt.split",
    target="sglang.srt.managers.scheduler.Scheduler.handle_generate_request",
    parameters=(("self", "recv_req", "mm_input_error"),),
    kind="before",
    hook=split_prompt,
    why=_WHY,
    versions=on("splits the last token off the prompt where the decode worker makes the first output token"),
    removable_when=REMOVABLE_WHEN,
)
