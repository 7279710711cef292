"""Replace sampled tokens by the tokens that a request repeats.

SGLang offers custom logit processors for this purpose. They need a flag with which workers run pickled code from
requests (`sampling/custom_logit_processor.py`), they change the logits from which logprobs are computed, and they know
a request's place in its answer only by counting calls. The hooks replace the token itself, after it was sampled and
before its logprob is read. Its place follows from the lengths that the batch has on the CPU, also where the overlap
loop has not yet processed the token before it, and after a retraction.

With speculative decoding SGLang samples in other functions. A draft is verified there against the model's own tokens,
so such a server refuses to repeat tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.replay.stream_tokens import REMOVABLE_WHEN, TOKENS_KEY
from sun_sglang.patches.versions import on

_FORCED = "sun_forced_rows"
_WHY = "an answer whose decode worker is lost would begin with other tokens than the client has"


class ForcedRows(NamedTuple):
    """The rows of a batch whose next token is given.

    Attributes:
        rows: places in the batch.
        tokens: the token of each.
    """

    rows: list[int]
    tokens: list[int]


def find_forced(batch: Any) -> ForcedRows | None:
    """Return the rows of a batch whose next token is given; None if none is.

    Args:
        batch: SGLang's `ScheduleBatch`, before its forward pass. The length of a request counts the tokens that have KV
            after the pass (`prepare_for_decode`), so the next token has this position in prompt and answer together.
    """
    rows, tokens = [], []
    for row, req in enumerate(batch.reqs):
        given = _given(req)
        if given is None:
            continue
        place = int(batch.seq_lens_cpu[row]) - len(req.origin_input_ids)
        # negative while chunks of the prompt are left
        if 0 <= place < len(given):
            rows.append(row)
            tokens.append(given[place])
    return ForcedRows(rows, tokens) if rows else None


def note_forced(forward_batch: Any, _cls: type, batch: Any, *_args: Any, **_kwargs: Any) -> Any:
    """Keep the given tokens of a batch with the sampling information of its forward pass, and return the batch."""
    if forward_batch.sampling_info is not None and batch.seq_lens_cpu is not None:
        setattr(forward_batch.sampling_info, _FORCED, find_forced(batch))
    return forward_batch


def sample(
    forward: Callable[..., Any], sampler: Any, logits_output: Any, sampling_info: Any, *args: Any, **kw: Any
) -> Any:
    """Sample, while the object that reads the logprobs knows the given tokens."""
    forced = getattr(sampling_info, _FORCED, None)
    if forced is None:
        return forward(sampler, logits_output, sampling_info, *args, **kw)
    setattr(sampler.output_logprob_processor, _FORCED, forced)
    try:
        return forward(sampler, logits_output, sampling_info, *args, **kw)
    finally:
        setattr(sampler.output_logprob_processor, _FORCED, None)


def replace_before_logprobs(processor: Any, _logprobs: Any, _top: Any, _ids: Any, batch_next_token_ids: Any) -> None:
    """Replace sampled tokens before their logprobs are read."""
    replace(batch_next_token_ids, getattr(processor, _FORCED, None))


def replace_sampled(_sampler: Any, batch_next_token_ids: Any, sampling_info: Any) -> None:
    """Replace sampled tokens, on each rank alike, before the ranks compare them."""
    replace(batch_next_token_ids, getattr(sampling_info, _FORCED, None))


def replace(sampled: Any, forced: ForcedRows | None) -> None:
    """Replace tokens in place.

    Args:
        sampled: tensor of the sampled tokens, one for each row.
        forced: the given ones.
    """
    if forced is not None:
        sampled[forced.rows] = sampled.new_tensor(forced.tokens)


def _given(req: Any) -> Sequence[int] | None:
    custom = req.sampling_params.custom_params
    return custom.get(TOKENS_KEY) if custom else None


_INIT_0521 = ("cls", "batch", "model_runner", "capture_hidden_mode", "return_hidden_states_before_norm")
_INIT = (*_INIT_0521, "extend_position_info", "spec_mrope_positions", "kv_loc_plan", "write_cols")
_FORWARD_0521 = (
    *("self", "logits_output", "sampling_info", "return_logprob", "top_logprobs_nums", "token_ids_logprobs"),
    "positions",
)
BATCH = Patch(
    name="forced_tokens.batch",
    target="sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
    parameters=(_INIT_0521, _INIT),
    kind="after",
    hook=note_forced,
    why=_WHY,
    versions=on("notes which tokens of a batch are given"),
    removable_when=REMOVABLE_WHEN,
)
SAMPLE = Patch(
    name="forced_tokens.sample",
    target="sglang.srt.layers.sampler.Sampler.forward",
    parameters=(_FORWARD_0521, (*_FORWARD_0521, "logprob_logits")),
    kind="around",
    hook=sample,
    why="a given token would have the logprob of the token that was sampled in its place",
    versions=on("passes the given tokens to the logprobs"),
    removable_when=REMOVABLE_WHEN,
)
LOGPROBS = Patch(
    name="forced_tokens.logprobs",
    target="sglang.srt.layers.logprob_processor.OutputLogprobProcessor.compute_logprobs",
    parameters=(("self", "logprobs", "top_logprobs_nums", "token_ids_logprobs", "batch_next_token_ids"),),
    kind="before",
    hook=replace_before_logprobs,
    why="a given token would have the logprob of the token that was sampled in its place",
    versions=on("replaces sampled tokens before their logprobs are read"),
    removable_when=REMOVABLE_WHEN,
)
REPLACE = Patch(
    name="forced_tokens.replace",
    target="sglang.srt.layers.sampler.Sampler._sync_token_ids_across_tp",
    parameters=(("self", "batch_next_token_ids", "sampling_info"),),
    kind="before",
    hook=replace_sampled,
    why=_WHY,
    versions=on("replaces sampled tokens by given ones"),
    removable_when=REMOVABLE_WHEN,
)
