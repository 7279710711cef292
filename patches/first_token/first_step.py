"""Let the decode worker's first step run the last prompt token.

SGLang's decode worker begins with a token that the prefill worker sampled: it is the first entry of `output_ids` and
the input of the first decode step. The hooks put the last prompt token there instead, and move it to the prompt as soon
as the request joins the batch. The step then writes the token's KV with the decode module and samples the first output
token, and everything that SGLang derives from prompt and output is right: counts, lengths, stops, logprobs, grammars.

SGLang retracts the requests with the fewest output tokens first, and resumes a request with the last entry of
`output_ids`. A request that is retracted before its first output token gets the last prompt token back there.

After a pause for new weights (`pause_generation` with `retract`), SGLang lets the prefill worker compute the KV of
every request anew, and commits the output token that it removed from the request instead of the handed-over token. A
request without output gets the last prompt token for this purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sun_sglang.patches.first_token.last_token import (
    REMOVABLE_WHEN,
    has_no_output,
    last_prompt_token,
    move_to_output,
    move_to_prompt,
    note_stands_in,
    stands_in,
)
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_DECODE = "sglang.srt.disaggregation.decode"
_WHY = "the decode worker would begin with the token that the prefill worker sampled"


def commit_last_token(commit: Callable[..., None], queue: Any, decode_req: Any) -> None:
    """Commit a transfer with the last prompt token in the place of the handed-over token.

    SGLang replays a token in this place when it computes the KV of a request anew, and then adds no logprob and counts
    no reasoning token for it. A request whose KV was computed anew has its token already.
    """
    req = decode_req.req
    token = last_prompt_token(req)
    if token is None or decode_req.is_rebootstrap:
        commit(queue, decode_req)
        return
    decode_req.is_rebootstrap, req.pd_rebootstrap_forced_output_id = True, token
    try:
        commit(queue, decode_req)
    finally:
        decode_req.is_rebootstrap, req.pd_rebootstrap_forced_output_id = False, None
    if req.output_ids:  # empty if the transfer was corrupt
        note_stands_in(req)


def start_with_last_token(process: Callable[..., None], batch: Any, *args: Any, **kwargs: Any) -> None:
    """Make the last prompt token the input of the first step, keep it from the grammar, and move it to the prompt."""
    waiting = [req for req in batch.reqs if stands_in(req)]
    grammars = [req.grammar for req in waiting]
    for req in waiting:
        req.grammar = None
    try:
        process(batch, *args, **kwargs)
    finally:
        for req, grammar in zip(waiting, grammars, strict=True):
            req.grammar = grammar
    for req in waiting:
        move_to_prompt(req)


def take_last_token_back(_queue: Any, req: Any, is_retracted: bool = False, is_rebootstrap: bool = False) -> None:
    """Take the last prompt token of a request back to the place of its first output token if it has no output.

    Args:
        req: the request, which waits to resume.
        is_retracted: it resumes with its own KV, and with the last entry of `output_ids`.
        is_rebootstrap: a prefill worker computes its KV anew, and it resumes with `pd_rebootstrap_forced_output_id`,
            which is None if it had no entry in `output_ids`.
    """
    if not has_no_output(req) or stands_in(req):
        return
    if is_retracted:
        move_to_output(req)
    elif is_rebootstrap and req.pd_rebootstrap_forced_output_id is None:
        move_to_output(req)
        req.pd_rebootstrap_forced_output_id = req.output_ids.pop()


COMMIT = Patch(
    name="first_step.commit",
    target=f"{_DECODE}.DecodeTransferQueue._commit_transfer_to_req",
    parameters=(("self", "decode_req"),),
    kind="around",
    hook=commit_last_token,
    why=_WHY,
    versions=on("commits the last prompt token instead of the handed-over token"),
    removable_when=REMOVABLE_WHEN,
)
START = Patch(
    name="first_step.start",
    target=(
        "sglang.srt.disaggregation.decode_schedule_batch_mixin.ScheduleBatchDisaggregationDecodeMixin.process_prebuilt"
    ),
    parameters=(("self", "future_map"),),
    kind="around",
    hook=start_with_last_token,
    why=_WHY,
    versions=on("runs the last prompt token in the first decode step"),
    removable_when=REMOVABLE_WHEN,
)
RETRACT = Patch(
    name="first_step.retract",
    target=f"{_DECODE}.DecodePreallocQueue.add",
    parameters=(("self", "req", "is_retracted", "is_rebootstrap"),),
    kind="before",
    hook=take_last_token_back,
    why="the server would end when a request resumes that was retracted before its first output token",
    versions=on("puts the last prompt token back in front of the first output token of a retracted request"),
    removable_when=REMOVABLE_WHEN,
)
