"""Report as cached the prompt tokens that the prefill worker found in its cache.

A decode worker receives the prefill worker's hits with the KV. SGLang then adds the tokens that the decode worker's own
radix cache holds beyond them. These tokens were computed by the prefill worker, and only their transfer was saved, so a
repeated prompt counts as cached as a whole although it was computed. A client would read `cached_tokens` equal to
`prompt_tokens` for a prompt that cost a full prefill.

With these hooks `cached_tokens` and the breakdown in `cached_tokens_details` are the prefill worker's in every reply:
`meta_info`, usage, streams and SGLang's metrics. The decode worker's own hits are one more entry of the breakdown.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

# key of `meta_info.cached_tokens_details`: prompt tokens whose KV the decode worker had, so that it was not sent
DECODE_HITS_KEY = "decode"
_WHY = "`cached_tokens` would count prompt tokens that the prefill worker computed"
_REMOVABLE_WHEN = "when SGLang's decode worker reports the prefill worker's cache hits alone"


def count_prefill_hits(batch: Any) -> None:
    """Mark every prompt of a batch as counted, so that SGLang adds none of the decode worker's hits."""
    for req in batch.reqs:
        if not req.retracted_stain:
            req.sun_decode_hits = _hits(req)
            req.already_computed = len(req.origin_input_ids)


def add_decode_hits(details: dict[str, Any] | None, _streamer: Any, req: Any) -> dict[str, Any] | None:
    """Add the decode worker's hits to a request's breakdown; None leaves the breakdown unchanged."""
    hits = getattr(req, "sun_decode_hits", 0)
    return {**(details or {"device": 0, "host": 0}), DECODE_HITS_KEY: hits} if hits else None


def _hits(req: Any) -> int:
    # 0.5.21 keeps the slots of the prefix, later versions its length
    return len(req.prefix_indices) if hasattr(req, "prefix_indices") else int(req.prefix_len)


COUNT = Patch(
    name="prefill_hits.count",
    target=(
        "sglang.srt.disaggregation.decode_schedule_batch_mixin"
        ".ScheduleBatchDisaggregationDecodeMixin.prepare_for_prebuilt"
    ),
    parameters=(("self",),),
    kind="before",
    hook=count_prefill_hits,
    why=_WHY,
    versions=on("keeps the decode worker's cache hits out of `cached_tokens`"),
    removable_when=_REMOVABLE_WHEN,
)
DETAILS = Patch(
    name="prefill_hits.details",
    target=(
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer.get_cached_tokens_details"
    ),
    parameters=(("self", "req"),),
    kind="after",
    hook=add_decode_hits,
    why=_WHY,
    versions=on("adds the decode worker's cache hits to `cached_tokens_details`"),
    removable_when=_REMOVABLE_WHEN,
)
