"""Keep a row for the first token among the logprobs of chosen token ids (`token_ids_logprob`).

The first token is made by the prefill worker, and the transfer of its metadata has no place for these logprobs. Up to
0.5.22 the decode worker's list is then one row short: every row stands at the token before its own, and a stream loses
rows, since SGLang takes them by the number of tokens. 0.5.23 appends an empty row, and so does this hook on the others.
The router puts the prefill worker's row there (`sun_sglang/router/protocol/logprobs.py`).
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on


def append_empty_row(_result: None, _queue: Any, decode_req: Any) -> None:
    """Append the first token's row if it is missing."""
    req = decode_req.req
    if not req.return_logprob or req.logprob.token_ids_logprob is None:
        return
    logprob = req.logprob
    if len(logprob.output_token_ids_logprobs_val) < len(logprob.output_token_logprobs_val):
        logprob.output_token_ids_logprobs_val.append([])
        logprob.output_token_ids_logprobs_idx.append([])


PATCH = Patch(
    name="first_ids_row",
    target="sglang.srt.disaggregation.decode.DecodeTransferQueue._commit_transfer_to_req",
    parameters=(("self", "decode_req"),),
    kind="after",
    hook=append_empty_row,
    why="`output_token_ids_logprobs` would be one row short, and the others in the wrong places",
    versions={
        **on("appends an empty row for the first token", ("0.5.21", "0.5.22")),
        "0.5.23": "changes nothing: SGLang appends the row itself",
    },
    removable_when="when SGLang 0.5.22 is not supported any more",
)
