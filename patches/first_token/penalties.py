"""Count no prompt token as output for penalties and `min_new_tokens`.

Before each decode step SGLang counts the last token of every request: the last output token, or the last prompt token
if there is no output. The second case exists on a decode worker only for a request whose first token this worker makes.
The first step of such a request counts nothing: no token was made.

With the overlap loop SGLang prepares the second step before it knows the first token. It then counts one more token of
the request, and again none by its id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sun_sglang.patches.first_token.last_token import REMOVABLE_WHEN, has_no_output
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

# state of SGLang's penalizers: one row for each request of the batch
_BY_TOKEN = ("cumulated_frequency_penalties", "cumulated_presence_penalties", "cumulated_repetition_penalties")
_COUNT = "len_output_tokens"


def count_output_only(cumulate: Callable[..., None], orchestrator: Any, output_ids: Any) -> None:
    """Count the last token of each request, except of those that have no output.

    Args:
        cumulate: SGLang's method.
        orchestrator: the penalizers of a batch.
        output_ids: the last token of each request, `(batch,)`.
    """
    reqs = orchestrator.reqs()
    waiting = [row for row, req in enumerate(reqs) if has_no_output(req)]
    if not waiting:
        cumulate(orchestrator, output_ids)
        return
    unstarted = [row for row in waiting if reqs[row].decode_batch_idx == 0]
    kept = [
        (penalizer, name, rows, getattr(penalizer, name)[rows].clone())
        for penalizer in orchestrator.penalizers.values()
        for names, rows in ((_BY_TOKEN, waiting), ((_COUNT,), unstarted))
        for name in names
        if rows and hasattr(penalizer, name)
    ]
    cumulate(orchestrator, output_ids)
    for penalizer, name, rows, values in kept:
        getattr(penalizer, name)[rows] = values


PATCH = Patch(
    name="penalties",
    target="sglang.srt.sampling.penaltylib.orchestrator.BatchedPenalizerOrchestrator.cumulate_output_tokens",
    parameters=(("self", "output_ids"),),
    kind="around",
    hook=count_output_only,
    why="penalties and `min_new_tokens` would count the last prompt token as output",
    versions=on("counts no prompt token as output"),
    removable_when=REMOVABLE_WHEN,
)
