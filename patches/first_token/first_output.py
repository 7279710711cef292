"""Send and check nothing before the first output token of a request exists.

SGLang's decode worker checks whether a request has finished, and sends its first chunk, when the request joins the
batch: it then has the handed-over token. A request whose first token this worker makes has none. SGLang would send a
chunk without a token, which counts as the first one for a client, and would skip the logprobs of the real first token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sun_sglang.patches.first_token.last_token import REMOVABLE_WHEN, has_no_output
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_COMPONENTS = "sglang.srt.managers.scheduler_components"


def skip_waiting(process: Callable[..., None], processor: Any, batch: Any) -> None:
    """Process a batch that joins the running one, without the requests that have no output and go on.

    A request that was aborted meanwhile, or that has room for no token, ends here.
    """
    every = batch.reqs
    waiting = [r for r in every if has_no_output(r) and r.to_finish is None and r.sampling_params.max_new_tokens > 0]
    if not waiting:
        process(processor, batch)
        return
    batch.reqs = [req for req in every if req not in waiting]
    try:
        process(processor, batch)
    finally:
        batch.reqs = every
    for req in waiting:
        req.time_stats.set_decode_prebuilt_finish_time()


def send_output_only(send: Callable[..., None], streamer: Any, reqs: Sequence[Any], *args: Any, **kwargs: Any) -> None:
    """Send the chunks of requests, except of those that have no output and go on.

    With the overlap loop a request that was retracted before its first output token is in the batch once more.
    """
    send(streamer, [req for req in reqs if req.finished() or not has_no_output(req)], *args, **kwargs)


JOIN = Patch(
    name="first_output.join",
    target=f"{_COMPONENTS}.batch_result_processor.SchedulerBatchResultProcessor.process_batch_result_prebuilt",
    parameters=(("self", "batch"),),
    kind="around",
    hook=skip_waiting,
    why="a stop rule that matches an empty text would end a request before its first token",
    versions=on("checks no end of a request before its first token"),
    removable_when=REMOVABLE_WHEN,
)
SEND = Patch(
    name="first_output.send",
    target=f"{_COMPONENTS}.output_streamer.SchedulerOutputStreamer.stream_output",
    parameters=(("self", "reqs", "return_logprob", "skip_req"),),
    kind="around",
    hook=send_output_only,
    why="a client would receive a first chunk without a token, and no logprob of the first token",
    versions=on("sends no chunk of a request before its first token"),
    removable_when=REMOVABLE_WHEN,
)
