"""Report the logprob of the last prompt token, which the prefill worker does not run.

The prefill worker computes logits at the last token that it runs, and these are the logits of the last prompt token.
Of each prompt SGLang computes one row more than it reports, for the token to sample; the hooks make this row the one of
the last prompt token, and report it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sun_sglang.patches.first_token.last_token import REMOVABLE_WHEN, last_prompt_token, needs_last_row
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_WHY = "a reply with the logprobs of the prompt would lack the last prompt token"


def score_last_token(_result: None, batch: Any) -> None:
    """Write the last prompt token in the place of the token to sample, in each prompt that ends in this batch."""
    ids = batch.extend_input_logprob_token_ids
    if ids is None:
        return
    end = 0
    for i, req in enumerate(batch.reqs):
        rows = batch.extend_lens[i] - batch.extend_logprob_start_lens[i]
        end += rows
        is_last_chunk = batch.prefix_lens[i] + batch.extend_lens[i] == len(req.origin_input_ids)
        if rows > 0 and is_last_chunk and needs_last_row(req):
            ids[end - 1] = last_prompt_token(req)


def add_last_row(
    add: Callable[..., int],
    processor: Any,
    i: int,
    req: Any,
    pt: int,
    next_token_ids: list[int],
    num_input_logprobs: int,
    output: Any,
) -> int:
    """Add a request's logprobs, and the row of its last prompt token at the end of the prompt's rows.

    Args:
        add: SGLang's method.
        processor: SGLang's `SchedulerLogprobResultProcessor`.
        i: index of the request in the batch.
        req: the request.
        pt: index of its first row among those of the batch.
        next_token_ids: the sampled token of each request.
        num_input_logprobs: number of its rows.
        output: the logprobs of the batch.
    """
    # the prompt's rows stay from an earlier run of the prompt
    if not needs_last_row(req) or req.logprob.input_token_logprobs_val is not None:
        return add(processor, i, req, pt, next_token_ids, num_input_logprobs, output)
    flat = req.return_flat_raw_top_logprobs
    req.return_flat_raw_top_logprobs = False  # arrays cannot get a row
    try:
        added = add(processor, i, req, pt, next_token_ids, num_input_logprobs, output)
    finally:
        req.return_flat_raw_top_logprobs = flat
    logprob, token = req.logprob, last_prompt_token(req)
    assert token is not None, "the key of the row comes with the key of the token"
    # the first row of a reply has no values, as in SGLang
    has_values = num_input_logprobs > 0
    logprob.input_token_logprobs_val.append(
        output.input_token_logprobs[pt + num_input_logprobs - 1] if has_values else None
    )
    logprob.input_token_logprobs_idx.append(token if token < processor.model_config.vocab_size - 1 else 0)
    if logprob.top_logprobs_num > 0:
        logprob.input_top_logprobs_val.append(output.input_top_logprobs_val[i][-1] if has_values else None)
        logprob.input_top_logprobs_idx.append(output.input_top_logprobs_idx[i][-1] if has_values else None)
    if logprob.token_ids_logprob is not None:
        values: Any = output.input_token_ids_logprobs_val[i][-1] if has_values else None
        logprob.input_token_ids_logprobs_val.append(values.tolist() if hasattr(values, "tolist") else values)
        logprob.input_token_ids_logprobs_idx.append(output.input_token_ids_logprobs_idx[i][-1] if has_values else None)
    if flat:
        processor._flatten_input_top_logprobs(req)
    return added


TOKEN = Patch(
    name="prompt_logprobs.token",
    target="sglang.srt.managers.schedule_batch.ScheduleBatch.prepare_for_extend",
    parameters=(("self",),),
    kind="after",
    hook=score_last_token,
    why=_WHY,
    versions=on("computes the logprob of the last prompt token"),
    removable_when=REMOVABLE_WHEN,
)
ROW = Patch(
    name="prompt_logprobs.row",
    target=(
        "sglang.srt.managers.scheduler_components.logprob_result_processor.SchedulerLogprobResultProcessor"
        ".add_logprob_return_values"
    ),
    parameters=(("self", "i", "req", "pt", "next_token_ids", "num_input_logprobs", "output"),),
    kind="around",
    hook=add_last_row,
    why=_WHY,
    versions=on("reports the logprob of the last prompt token"),
    removable_when=REMOVABLE_WHEN,
)
